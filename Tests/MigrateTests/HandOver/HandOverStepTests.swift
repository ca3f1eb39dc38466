import Migrate
import Testing

/// The ordinary ways through the hand-over, step by step, as a reader would tell them. The interleavings are in
/// `HandOverExplorationTests`.
@Suite("Hand-over, step by step")
struct HandOverStepTests {
    let session = SessionIdentifier(high: 1, low: 2)
    let digest = MemoryDigest(0xd1)
    let times = HandOverTimeouts()

    func message(_ body: HandOverMessage.Body, attempt: UInt32 = 1) -> HandOverMessage {
        HandOverMessage(session: session, attempt: AttemptNumber(attempt), digest: digest, body: body)
    }

    /// A source that has said FINAL.
    func sourceAtFinal() -> SourceHandOver {
        var source = SourceHandOver(session: session, mode: .preCopy)
        _ = source.handle(.linkUp)
        #expect(source.handle(.stopAndCopy(readyWithin: .seconds(1))) == [.startTimer(.ready, .seconds(1)), .pauseVM])
        #expect(source.handle(.paused) == [.sendLastPages(AttemptNumber(1))])
        #expect(source.handle(.lastPagesSent(AttemptNumber(1), digest)) == [.send(message(.final(.preCopy)))])
        return source
    }

    /// A destination that has said READY.
    func destinationAtReady() -> DestinationHandOver {
        var destination = DestinationHandOver(session: session)
        _ = destination.handle(.linkUp)
        let loading = destination.handle(.message(message(.final(.preCopy))))
        #expect(loading.last == .load(AttemptNumber(1), .preCopy))
        #expect(destination.handle(.loaded(AttemptNumber(1), digest)) == [.send(message(.ready)), .note(.ready)])
        return destination
    }

    @Test func theOrdinaryWay() {
        var source = sourceAtFinal()
        var destination = destinationAtReady()
        let heard = HandOverTimeouts().silence

        #expect(
            source.handle(.message(message(.ready)))
                == [.startTimer(.silence, heard), .cancelTimer(.ready), .releaseDisks])
        #expect(source.handle(.disksReleased) == [.record(.givenAway)])
        #expect(source.handle(.recorded(.givenAway)) == [.send(message(.commit))])
        #expect(!source.mayRunVM)

        #expect(destination.handle(.message(message(.commit))).last == .lockDisks)
        #expect(destination.handle(.disksLocked) == [.cancelTimer(.doubt), .runVM])
        #expect(
            destination.handle(.started) == [.cancelTimer(.doubt), .send(message(.running)), .note(.running)])

        let freed = source.handle(.message(message(.running)))
        #expect(freed.contains(.freeVM) && freed.last == .ended(.handedOver))
        #expect(destination.handle(.message(message(.done))).last == .ended(.handedOver))
    }

    @Test func noReadyInTime() {
        var source = sourceAtFinal()
        #expect(
            source.handle(.timer(.ready)) == [
                .cancelTimer(.ready), .resumeVM, .attemptFailed(AttemptNumber(1), .readyDeadline),
                .send(message(.void(.retry))),
            ])
        // READY crosses VOID.
        #expect(source.handle(.message(message(.ready))).last == .ignored(message(.ready), .notExpected))
        #expect(source.handle(.stopAndCopy(readyWithin: .seconds(1))) == [.object(.notNow)])
        #expect(source.handle(.message(message(.voided))).last == .mayTryAgain)
        #expect(source.handle(.stopAndCopy(readyWithin: .seconds(1))).last == .pauseVM)
        #expect(source.attempt == AttemptNumber(2))
    }

    @Test func cancelAfterCommitIsRefused() {
        var source = sourceAtFinal()
        _ = source.handle(.message(message(.ready)))
        _ = source.handle(.disksReleased)
        _ = source.handle(.recorded(.givenAway))
        #expect(source.handle(.cancel) == [.object(.alreadyCommitted)])
        var destination = destinationAtReady()
        #expect(destination.handle(.cancel) == [.object(.alreadyReady)])
    }

    /// Post-copy: RUNNING does not free the source; INSTALLED does.
    @Test func postCopyFreesAtInstalled() {
        var source = SourceHandOver(session: session, mode: .postCopy)
        _ = source.handle(.linkUp)
        _ = source.handle(.stopAndCopy(readyWithin: .seconds(1)))
        _ = source.handle(.paused)
        #expect(
            source.handle(.lastPagesSent(AttemptNumber(1), digest))
                == [.servePages, .send(message(.final(.postCopy)))])
        _ = source.handle(.message(message(.ready)))
        _ = source.handle(.disksReleased)
        _ = source.handle(.recorded(.givenAway))
        #expect(!source.handle(.message(message(.running))).contains(.freeVM))
        #expect(source.phase == .serving)
        #expect(source.handle(.message(message(.installed))).contains(.freeVM))
    }

    /// A frozen or killed peer is noticed by silence, and a person may decide only after the doubt timer.
    @Test func silenceThenDoubtThenDecision() {
        var destination = destinationAtReady()
        #expect(destination.handle(.resolve(.runHere(otherSideIsDead: true))) == [.object(.noDoubt)])
        let closed = destination.handle(.timer(.silence))
        #expect(closed.first == .closeLink(.silent) && closed.last == .startTimer(.doubt, times.doubt))
        #expect(destination.handle(.resolve(.runHere(otherSideIsDead: true))) == [.object(.noDoubt)])
        #expect(destination.handle(.timer(.doubt)) == [.reportDoubt(.readyAndSilent)])
        #expect(destination.handle(.resolve(.runHere(otherSideIsDead: false))) == [.object(.wordMissing)])
        #expect(destination.handle(.resolve(.runHere(otherSideIsDead: true))) == [.record(.resolvedHere)])
        #expect(destination.handle(.recorded(.resolvedHere)) == [.lockDisks])
        #expect(destination.handle(.disksLocked).last == .runVM)
    }
}
