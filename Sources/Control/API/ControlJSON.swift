/// JSON as the API and `--json` write it: one encoder, one strict decoder.

#if canImport(FoundationEssentials)
    import FoundationEssentials
#else
    import Foundation
#endif

/// The one place where JSON is made and read.
public enum ControlJSON {
    /// Keys are sorted, so that output can be compared.
    public static func encode(_ value: some Encodable, pretty: Bool = false) throws -> [UInt8] {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        if pretty { encoder.outputFormatting.insert(.prettyPrinted) }
        encoder.dateEncodingStrategy = .iso8601
        // No measure is infinite, but a ratio of two may be: it must not make a whole answer impossible.
        encoder.nonConformingFloatEncodingStrategy = .convertToString(
            positiveInfinity: "inf", negativeInfinity: "-inf", nan: "nan")
        return Array(try encoder.encode(value))
    }

    /// - Throws: `badRequest`, naming the field.
    public static func decode<T: Decodable>(_ type: T.Type, from bytes: [UInt8]) throws(ControlError) -> T {
        let decoder = JSONDecoder()
        decoder.dateDecodingStrategy = .iso8601
        decoder.nonConformingFloatDecodingStrategy = .convertFromString(
            positiveInfinity: "inf", negativeInfinity: "-inf", nan: "nan")
        do {
            return try decoder.decode(type, from: Data(bytes))
        } catch let error as ControlError {
            throw error
        } catch let error as DecodingError {
            throw ControlError(.badRequest, describe(error))
        } catch {
            throw ControlError(.badRequest, "The JSON cannot be read: \(error).")
        }
    }

    private static func describe(_ error: DecodingError) -> String {
        switch error {
        case .keyNotFound(let key, _): "The field \"\(key.stringValue)\" is missing."
        case .typeMismatch(let type, let context): "\(field(context)) must be a \(name(of: type))."
        case .valueNotFound(let type, let context): "\(field(context)) is null and must be a \(name(of: type))."
        case .dataCorrupted(let context):
            context.codingPath.isEmpty ? "The body is not JSON." : "\(field(context)): \(context.debugDescription)"
        @unknown default: "The JSON cannot be read."
        }
    }

    private static func name(of type: Any.Type) -> String {
        switch type {
        case is String.Type: "string"
        case is Bool.Type: "boolean"
        case is any Numeric.Type: "number"
        default: "JSON object"
        }
    }

    private static func field(_ context: DecodingError.Context) -> String {
        if context.codingPath.isEmpty { return "The body" }
        return "The field \"" + context.codingPath.map(\.stringValue).joined(separator: ".") + "\""
    }
}

/// A key of any name, to see which keys there are.
private struct AnyKey: CodingKey {
    var stringValue: String
    var intValue: Int? { nil }
    init(stringValue: String) { self.stringValue = stringValue }
    init?(intValue: Int) { nil }
}

extension Decoder {
    /// Refuses fields that nobody reads: a limit with a typing error in its name must not be a limit that is
    /// silently absent.
    func refuseUnknownFields<Keys: CodingKey & CaseIterable>(except keys: Keys.Type) throws {
        let known = Set(keys.allCases.map(\.stringValue))
        for key in try container(keyedBy: AnyKey.self).allKeys where !known.contains(key.stringValue) {
            throw ControlError(
                .badRequest,
                "There is no field \(VMName.quoted(key.stringValue)) here: known are "
                    + known.sorted().joined(separator: ", ") + ".")
        }
    }
}

extension HTTPResponse {
    static func json(_ value: some Encodable, status: Int = 200) -> HTTPResponse {
        guard let bytes = try? ControlJSON.encode(value) else {
            return HTTPResponse(
                status: 500, contentType: "application/json",
                body: .bytes(
                    Array(#"{"error":{"code":"failed","message":"The answer cannot be written as JSON."}}"#.utf8)))
        }
        return HTTPResponse(status: status, contentType: "application/json", body: .bytes(bytes))
    }

    static func error(_ error: ControlError, status: Int? = nil) -> HTTPResponse {
        json(ErrorPayload(error: error), status: status ?? error.code.httpStatus)
    }
}

/// What the body of every answer that is not a success looks like.
struct ErrorPayload: Codable {
    var error: ControlError
}

extension ControlError.Code {
    /// The HTTP status that carries this code.
    var httpStatus: Int {
        switch self {
        case .badRequest, .badName: 400
        case .notFound, .vmNotFound: 404
        case .methodNotAllowed: 405
        case .timeout: 408
        case .wrongState, .nameTaken: 409
        case .tooLarge: 413
        case .unsupported: 501
        case .busy, .unreachable: 503
        default: 500
        }
    }
}
