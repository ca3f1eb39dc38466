/// Dates and times of day in UTC, as a clock chip counts them.

/// A second of the Gregorian calendar.
package struct CalendarTime: Equatable, Sendable {
    package var year: Int
    /// 1 to 12.
    package var month: Int
    /// 1 to 31.
    package var day: Int
    package var hour: Int
    package var minute: Int
    package var second: Int

    package init(year: Int, month: Int, day: Int, hour: Int, minute: Int, second: Int) {
        self.year = year
        self.month = month
        self.day = day
        self.hour = hour
        self.minute = minute
        self.second = second
    }

    /// Instants beyond these are the first and the last second that the registers can show: years 0 to 9999.
    private static let earliest: Int64 = -62_167_219_200
    private static let latest: Int64 = 253_402_300_799
    private static let daysBefore = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334]

    /// From seconds since 1970.
    package init(secondsSince1970: Int64) {
        let clamped = min(max(secondsSince1970, Self.earliest), Self.latest)
        // Days since the first day of year 0.
        var days = Int((clamped - Self.earliest) / 86_400)
        let rest = Int((clamped - Self.earliest) % 86_400)
        // A year has 365.2425 days: the guess is right or one too high.
        var year = days * 400 / 146_097
        while Self.days(before: year) > days { year -= 1 }
        while Self.days(before: year + 1) <= days { year += 1 }
        days -= Self.days(before: year)
        var month = 12
        while days < Self.days(beforeMonth: month, of: year) { month -= 1 }
        self.init(
            year: year, month: month, day: days - Self.days(beforeMonth: month, of: year) + 1, hour: rest / 3600,
            minute: rest / 60 % 60, second: rest % 60)
    }

    /// Seconds since 1970; nil for what no calendar has. Days that a month lacks count into the next one.
    package var secondsSince1970: Int64? {
        guard (0...9999).contains(year), (1...12).contains(month), (1...31).contains(day), (0...23).contains(hour),
            (0...59).contains(minute), (0...59).contains(second)
        else { return nil }
        let days = Self.days(before: year) + Self.days(beforeMonth: month, of: year) + day - 1
        return Self.earliest + Int64(days) * 86_400 + Int64(hour * 3600 + minute * 60 + second)
    }

    /// 1 for Sunday.
    package var weekday: Int {
        // The first day of year 0 was a Saturday.
        (Self.days(before: year) + Self.days(beforeMonth: month, of: year) + day - 1 + 6) % 7 + 1
    }

    private static func isLeap(_ year: Int) -> Bool { year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) }

    private static func days(before year: Int) -> Int {
        year == 0 ? 0 : year * 365 + (year - 1) / 4 - (year - 1) / 100 + (year - 1) / 400 + 1
    }

    private static func days(beforeMonth month: Int, of year: Int) -> Int {
        daysBefore[month - 1] + (month > 2 && isLeap(year) ? 1 : 0)
    }
}
