/// A disk image that goes away with its owner.

import Glibc
import Virtio

final class TemporaryDisk {
    let path: String

    /// In `folder`: /dev/shm is a tmpfs, /var/tmp mostly is not.
    init(byteCount: Int, folder: String = "/var/tmp") throws {
        var template = Array("\(folder)/virtio-tests-XXXXXX".utf8CString)
        let file = mkstemp(&template)
        guard file >= 0, ftruncate(file, byteCount) == 0 else { throw VirtioError(.hostRefused, "no temporary file") }
        close(file)
        path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    deinit { unlink(path) }

    func open(readOnly: Bool = false, allowsDirect: Bool = true) throws -> BlockFile {
        try BlockFile(path, readOnly: readOnly, allowsDirect: allowsDirect)
    }

    func bytes(at offset: Int, _ count: Int) -> [UInt8] {
        let file = Glibc.open(path, O_RDONLY)
        defer { close(file) }
        var bytes = [UInt8](repeating: 0, count: count)
        _ = pread(file, &bytes, count, off_t(offset))
        return bytes
    }

    func fill(_ byte: UInt8, at offset: Int, _ count: Int) {
        let file = Glibc.open(path, O_WRONLY)
        defer { close(file) }
        _ = pwrite(file, [UInt8](repeating: byte, count: count), count, off_t(offset))
    }

    /// 512-byte blocks that the file system keeps for it.
    var allocatedBlocks: Int {
        var status = stat()
        stat(path, &status)
        return Int(status.st_blocks)
    }
}
