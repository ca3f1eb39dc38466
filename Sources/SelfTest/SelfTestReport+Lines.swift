import Units

// How the parts of a report are read from the fields of a line. The keys are those of
// Sources/CSelfTest/guest/strings.S.

extension SelfTestReport.Boot {
    init(_ fields: Fields) throws {
        version = try fields.number("version")
        cpuCount = try fields.number("cpus")
        tscKiloHertz = try fields.number("tsc_khz")
        tscSource = try fields.text("tsc_source")
        hasKVMClock = try fields.text("kvmclock") == "1"
        hasAVX = try fields.text("avx") == "1"
        hasFSGSBase = try fields.text("fsgsbase") == "1"
        timerHertz = try fields.number("timer_hz")
        timerMode = try fields.text("timer_mode")
        idle = try fields.text("idle")
        seed = try fields.number("seed")
    }
}

extension SelfTestReport.Ready {
    init(_ fields: Fields) throws {
        pageCount = try fields.number("pages")
        firstPage = GuestAddress(try fields.number("first"))
        lastPage = GuestAddress(try fields.number("last"))
        elapsedMilliseconds = try fields.number("elapsed_ms")
    }
}

extension SelfTestReport.BadPage {
    init(_ fields: Fields) throws {
        kind = try fields.text("kind")
        page = try fields.number("page")
        address = GuestAddress(try fields.number("gpa"))
        cpu = try fields.number("cpu")
        expected = try .init(fields, suffix: "expected")
        found = try .init(fields, suffix: "found")
        tsc = try fields.number("tsc")
    }
}

extension SelfTestReport.PageState {
    init(_ fields: Fields, suffix: String) throws {
        number = try fields.number("number_\(suffix)")
        generation = try fields.number("generation_\(suffix)")
        checksum = try fields.number("checksum_\(suffix)")
        sum = try fields.number("sum_\(suffix)")
    }
}

extension SelfTestReport.Verification {
    init(_ fields: Fields) throws {
        pageCount = try fields.number("pages")
        badPageCount = try fields.number("bad")
        milliseconds = try fields.number("ms")
    }
}

extension SelfTestReport.Counters {
    init(_ fields: Fields) throws {
        sequence = try fields.number("sequence")
        pagesWritten = try fields.number("written")
        pagesRead = try fields.number("read")
        pagesVerified = try fields.number("verified")
        errors = try fields.number("errors")
        timerTicks = try fields.number("ticks")
        timerStalls = try fields.number("stalls")
        tscBackward = try fields.number("tsc_backward")
        clockBackward = try fields.number("clock_backward")
        registerFailures = try fields.number("register_failures")
        heartbeatFailures = try fields.number("heartbeat_failures")
    }
}

extension SelfTestReport.CPU {
    init(_ fields: Fields) throws {
        index = try fields.number("cpu")
        counters = try .init(fields)
        registerChecks = try fields.number("register_checks")
        lostRegisters = SelfTestRegisters(rawValue: try fields.number("register_mask"))
        tscStep = try fields.number("tsc_step")
    }
}

extension SelfTestReport.Summary {
    init(_ fields: Fields) throws {
        elapsedMilliseconds = try fields.number("elapsed_ms")
        cpuCount = try fields.number("cpus")
        pageCount = try fields.number("pages")
        tscKiloHertz = try fields.number("tsc_khz")
        counters = try .init(fields)
        largestGap = SelfTestGap(
            cpu: nil, fromTSC: try fields.number("gap_from"), toTSC: try fields.number("gap_to"),
            nanoseconds: try fields.number("gap_ns"))
        passed = try fields.text("verdict") == "pass"
    }
}

extension SelfTestReport.Fault {
    init(_ fields: Fields) throws {
        cpu = try fields.number("cpu")
        vector = try fields.number("vector")
        error = try fields.number("error")
        rip = GuestAddress(try fields.number("rip"))
        cr2 = GuestAddress(try fields.number("cr2"))
    }
}

extension SelfTestGap {
    init(_ fields: Fields) throws {
        self.init(
            cpu: try fields.number("cpu"), fromTSC: try fields.number("from"), toTSC: try fields.number("to"),
            nanoseconds: try fields.number("ns"))
    }
}
