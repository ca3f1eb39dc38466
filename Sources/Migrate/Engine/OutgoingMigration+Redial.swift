/// Finding the destination again after the control connection broke.

import Glibc
import Logging
import Synchronization

extension OutgoingMigration {
    /// Dials until it is linked or the session has ended: at once, then with pauses that grow to 2 s.
    func redial(_ session: SessionIdentifier, _ link: ControlLink) {
        let isFirst = redialling.withLock { state in
            // A thread that has just linked again may still be at it when that link breaks as well.
            state.isWanted = true
            defer { state.isActive = true }
            return !state.isActive && !state.hasEnded
        }
        guard isFirst else { return }
        do {
            let thread = try PlainThread(name: "redial") { [self] in
                while mustDial() { dial(session, link) }
            }
            redialling.withLock { $0.threads.append(thread) }
        } catch {
            logger.error("cannot dial \(destination) again: \(error)")
            redialling.withLock { $0.isActive = false }
        }
    }

    /// Takes the wish to dial; false when there is none, and the thread ends.
    private func mustDial() -> Bool {
        redialling.withLock { state in
            defer { state.isWanted = false }
            state.isActive = state.isWanted && !state.hasEnded
            return state.isActive
        }
    }

    /// Stops dialling and waits for it.
    func finishRedialling() {
        let threads = redialling.withLock { state in
            state.hasEnded = true
            defer { state.threads = [] }
            return state.threads
        }
        for thread in threads { thread.join() }
    }

    private func dial(_ session: SessionIdentifier, _ link: ControlLink) {
        var pause: UInt32 = 50_000
        while !redialling.withLock({ $0.hasEnded }) {
            guard wishes.withLock({ $0.driver != nil }) else { return }
            do {
                let connection = try Connection.connect(to: destination)
                connection.setReadTimeout(.seconds(5))
                connection.setWriteTimeout(options.timeouts.silence)
                let writer = try RecordWriter(connection)
                try writer.send(.rejoin(session))
                let reader = ReaderHandle(RecordReader(connection))
                _ = try reader.readStreamHeader()
                guard case .rejoin(session)? = try reader.next() else {
                    throw TransportError(.closed, "\(destination) does not know the session any more")
                }
                connection.setReadTimeout(nil)
                try link.attach(connection, writer: writer, reader: reader)
                logger.info("linked again to \(destination)")
                return
            } catch {
                logger.debug("dialling \(destination): \(error)")
                usleep(pause)
                pause = min(pause * 2, 2_000_000)
            }
        }
    }
}
