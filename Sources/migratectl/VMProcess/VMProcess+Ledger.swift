/// The hand-over's ledger: a file for each session that is not settled yet, so that what was decided outlives the process.

import Control
import Logging
import Migrate

extension VMProcess {
    /// Puts a ledger on record before what it says is said, and takes it away once both sides know the end.
    func recordLedger(_ ledger: HandOverLedger) throws {
        let store = HandOverLedgerStore(directory: claim.directory.path)
        switch ledger.phase {
        case .done, .void: try store.remove(ledger.role, ledger.session)
        case .givenAway, .takenBack, .ready, .running, .resolvedHere: try store.write(ledger)
        }
    }

    /// What a receiver left on record that died with its VM.
    func deadReceiversLedger(_ session: SessionIdentifier) -> HandOverLedger? {
        do {
            return try HandOverLedgerStore(directory: claim.directory.path).read(.destination, session)
        } catch {
            logger.warning("a hand-over's record cannot be read: \(error)")
            return nil
        }
    }

    /// The VM runs on here, and the destination knows or cannot have it: no record is needed.
    func forgetLedger(session: String) {
        guard let session = SessionIdentifier(session) else { return }
        let store = HandOverLedgerStore(directory: claim.directory.path)
        try? store.remove(.source, session)
    }
}
