/// What a person's answer costs, in words to be shown before it is given (`migratectl resolve`).

/// What each decision would cost now.
public struct HandOverChoices: Codable, Hashable, Sendable {
    /// This side is the VM from now on.
    public var keep: String
    /// This side's copy is dropped.
    public var discard: String

    init(_ cost: (HandOverResolution) -> String) {
        keep = cost(.runHere(otherSideIsDead: true))
        discard = cost(.dropHere(copyMayBeLost: true))
    }
}

extension SourceHandOver {
    /// What a person may choose from; nil while there is nothing to decide.
    var choices: HandOverChoices? { mayBeResolved ? HandOverChoices(cost(of:)) : nil }

    /// What `resolve` would cost here now.
    public func cost(of resolution: HandOverResolution) -> String {
        switch resolution {
        case .runHere:
            let risk =
                "If the destination is alive after all and runs the VM, two will run and write the same disks: "
                + "switch its host off first."
            let past: String
            switch (doubt, phase) {
            case (.destinationRanAndDied, _), (_, .serving):
                past =
                    "The VM has run at the destination. Here it goes back to the moment of the pause; what it did "
                    + "since is lost from its memory but not from its disks, so its file systems may be damaged. "
                    + "Booting it anew from its disks is safer."
            case (.destinationLost, _):
                past =
                    "The destination's process died. The VM goes on here from the moment of the pause; should it have "
                    + "run there for an instant, what it did in that instant is lost."
            case (.split, _):
                past =
                    "The VM ran here and runs at the destination, and they are two different VMs by now. What the "
                    + "destination did since is lost, and the disks hold what both wrote."
            default:
                past =
                    "The VM goes on here from the moment of the pause. Whatever it may have done at the destination "
                    + "is lost."
            }
            return "\(past) \(risk)"
        case .dropHere:
            return "The copy here is freed. If the destination does not have the VM, it is lost."
        }
    }
}

extension DestinationHandOver {
    /// What a person may choose from; nil while there is nothing to decide.
    var choices: HandOverChoices? { mayBeResolved ? HandOverChoices(cost(of:)) : nil }

    /// What `resolve` would cost here now.
    public func cost(of resolution: HandOverResolution) -> String {
        switch resolution {
        case .runHere:
            let risk =
                "If the source is alive after all, it may have taken the VM back and run it, and two will write the "
                + "same disks: switch its host off first."
            switch phase {
            case .stopped(.voidedByDecision), .stopped(.split):
                return
                    "The source has run the VM since: what it did is lost, and its disks hold what both wrote. \(risk)"
            case .stopped(.startFailed):
                return "The copy is complete; its start is tried again. Nothing is lost by it. \(risk)"
            default:
                return
                    "The copy is complete and checked: the VM goes on from the moment of the pause, and nothing is "
                    + "lost, unless the source took it back and ran it before it died. \(risk)"
            }
        case .dropHere:
            return "The copy here is forgotten. If the source does not have the VM any more, it is lost."
        }
    }
}
