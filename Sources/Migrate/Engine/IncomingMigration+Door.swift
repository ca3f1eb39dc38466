/// The receiver's door: who may come in, and as what. Everything here is said by strangers.

import Logging

extension IncomingMigration {
    /// Accepts connections until the receiver closes.
    func keepDoor() {
        while !door.read({ $0.isClosing }) {
            do {
                if let connection = try listener.accept(within: .milliseconds(100)) { greet(connection) }
            } catch {
                logger.error("\(error)")
                // A listener that fails for good must not spin.
                _ = door.wait(until: .now + .seconds(1)) { $0.isClosing ? true : nil }
            }
            showOutTheSilent()
        }
        for handshake in door.read({ $0.handshakes.values }) {
            handshake.connection.shutDown(because: TransportError(.shutDown, "the receiver is closing"))
        }
        // Each handshake's thread sees its connection end, and leaves.
        _ = door.wait(until: .now + .seconds(5)) { $0.handshakes.isEmpty ? true : nil }
    }

    /// A connection that has not said what it wants in time is closed, however slowly it goes on talking.
    private func showOutTheSilent() {
        let timeout = options.handshakeTimeout
        for handshake in door.read({ $0.handshakes.values }) where .now - handshake.since > timeout {
            handshake.connection.shutDown(because: TransportError(.timedOut, "it did not say in time what it wants"))
        }
    }

    private func greet(_ connection: Connection) {
        let key = ObjectIdentifier(connection)
        // The one that has been silent for longest makes room: a source says at once what it wants, and those that
        // say nothing must not keep it out.
        let oldest: Connection? = door.update { door in
            var oldest: Connection?
            if door.handshakes.count >= Self.handshakeLimit,
                let silent = door.handshakes.min(by: { $0.value.since < $1.value.since })
            {
                oldest = silent.value.connection
                door.handshakes[silent.key] = nil
            }
            door.handshakes[key] = Handshake(connection: connection, since: .now)
            return oldest
        }
        oldest?.shutDown(because: TransportError(.timedOut, "it was silent, and others came"))
        do {
            // Detached: it ends with its connection, and the door waits for the table to be empty.
            try PlainThread.detached(name: "handshake") { [self] in
                do {
                    try handshake(connection)
                } catch let error as StreamError where error.code != .notAStream {
                    // It speaks our language, or a later form of it, and can read why.
                    try? refuse(connection, Refusal(.protocolError, "\(error)"))
                } catch {
                    logger.info("\(connection.peer) was turned away: \(error)")
                }
                door.update { $0.handshakes[key] = nil }
            }
        } catch {
            logger.error("\(error)")
            door.update { $0.handshakes[key] = nil }
        }
    }

    private func handshake(_ connection: Connection) throws {
        connection.setReadTimeout(options.handshakeTimeout)
        connection.setWriteTimeout(options.handshakeTimeout)
        var reader = RecordReader(connection)
        _ = try reader.readStreamHeader()
        switch try reader.next() {
        case .record(.hello(let hello)):
            try offer(hello, connection, ReaderHandle(reader))
        case .record(.lane(let greeting)):
            guard let session = door.read({ $0.session }) else {
                return try refuse(connection, Refusal(.unknownSession, "no session is under way here"))
            }
            // A stranger stays among those whose number is limited until its connection is closed.
            do { try session.verify(greeting.session, greeting.secret) } catch let refusal as Refusal {
                return try refuse(connection, refusal)
            }
            connection.setWriteTimeout(nil)
            connection.setLaneBuffers()
            // From here on the session's own liveness counts.
            door.update { $0.handshakes[ObjectIdentifier(connection)] = nil }
            do {
                try session.join(greeting, connection, reader)
            } catch let refusal as Refusal {
                try refuse(connection, refusal)
            }
        case .record(.pagingLane(let greeting)):
            guard let session = door.read({ $0.session }) else {
                return try refuse(connection, Refusal(.unknownSession, "no session is under way here"))
            }
            do { try session.verify(greeting.session, greeting.secret) } catch let refusal as Refusal {
                return try refuse(connection, refusal)
            }
            connection.setLaneBuffers()
            door.update { $0.handshakes[ObjectIdentifier(connection)] = nil }
            do {
                try session.join(greeting, connection, reader)
            } catch let refusal as Refusal {
                try refuse(connection, refusal)
            }
        case .record(.rejoin(let identifier)):
            guard let session = door.read({ $0.session }), session.identifier == identifier else {
                return try answerForTheDead(identifier, connection, ReaderHandle(reader))
            }
            let writer = try RecordWriter(connection)
            try writer.send(.rejoin(identifier))
            door.update { $0.handshakes[ObjectIdentifier(connection)] = nil }
            try settle(connection, session, writer, ReaderHandle(reader))
        case nil: throw connection.endOfInput()
        case .pages: throw StreamError(.unexpected, "it began with pages")
        case .record(let other): throw StreamError(.unexpected, "it began with \(other.type)")
        }
    }

    /// A source offers its VM: build it, or say why not.
    private func offer(_ hello: Hello, _ connection: Connection, _ reader: ReaderHandle) throws {
        guard case .configuration(let configuration)? = try reader.next() else {
            throw StreamError(.unexpected, "HELLO was not followed by the VM's configuration")
        }
        let isMine = door.update { door in
            guard !door.isTaken, !door.isClosing else { return false }
            door.isTaken = true
            // Building a VM takes its time.
            door.handshakes[ObjectIdentifier(connection)] = nil
            return true
        }
        guard isMine else {
            return try refuse(connection, Refusal(.busy, "another VM is being received here; use another receiver"))
        }
        let session: ReceiverSession
        do {
            let mebibytes = configuration.memory.reduce(0) { $0 + $1.byteCount } >> 20
            logger.info(
                "a VM is offered",
                metadata: [
                    "peer": "\(connection.peer)", "name": "\(configuration.name)",
                    "vcpus": "\(configuration.vcpuCount)", "mebibytes": "\(mebibytes)",
                ])
            let machine = try builder.makeMachine(for: configuration)
            // Whoever cannot take pages later says so before anything moves.
            let paging = hello.needs.contains(.paging) ? try machine.makePaging() : nil
            session = try ReceiverSession(
                identifier: hello.session, machine: machine, lanes: Int(hello.lanes), paging: paging,
                peer: connection.peer, options: options, logger: logger)
            if hello.needs.contains(.nothingBefore) { try session.forgetMemory() }
        } catch {
            let refusal = error as? Refusal ?? Refusal(.incompatible, "\(error)")
            logger.warning("'\(configuration.name)' cannot be received: \(refusal.reason)")
            door.update { $0.isTaken = false }
            return try refuse(connection, refusal)
        }
        // Known before WELCOME leaves: the lanes follow at once.
        let isOpen = door.update { door in
            guard !door.isClosing else { return false }
            door.session = session
            door.welcomed = .now
            door.peer = connection.peer
            return true
        }
        guard isOpen else {
            session.end()
            return try refuse(connection, Refusal(.shuttingDown, "the receiver was stopped"))
        }
        do {
            let writer = try RecordWriter(connection)
            let welcome = Welcome(
                session: hello.session, laneSecret: session.laneSecret, lanes: UInt16(session.lanesGranted),
                program: programName)
            try writer.send(.welcome(welcome))
            try settle(connection, session, writer, reader)
        } catch {
            // Somebody waits for this session already, and must hear of its end.
            session.driver.situation.update { $0.lostLink = error }
            session.driver.submit(.cancel)
            throw error
        }
    }

    private func settle(
        _ connection: Connection, _ session: ReceiverSession, _ writer: RecordWriter, _ reader: ReaderHandle
    ) throws {
        connection.setReadTimeout(nil)
        // A peer that is stopped reads nothing: writing to it must not wait for longer than its silence may last.
        connection.setWriteTimeout(options.timeouts.silence)
        try session.attach(connection, writer: writer, reader: reader)
    }

    /// A source looks for the process that it was handing its VM to, and which died: what it left on record counts.
    private func answerForTheDead(
        _ identifier: SessionIdentifier, _ connection: Connection, _ reader: ReaderHandle
    ) throws {
        guard let ledger = options.findLedger(identifier),
            var lost = LostSession(ledger, options: options)
        else {
            return try refuse(connection, Refusal(.unknownSession, "that session is not known here"))
        }
        logger.warning("'\(ledger.machine)' died with the process that received it; its source is told")
        let writer = try RecordWriter(connection)
        try writer.send(.rejoin(identifier))
        try lost.answer(writer, reader)
    }

    private func refuse(_ connection: Connection, _ refusal: Refusal) throws {
        logger.info("\(connection.peer) was refused: \(refusal.reason)")
        try RecordWriter(connection).send(.refusal(refusal))
        connection.finish()
    }
}
