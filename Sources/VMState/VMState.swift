// VMState
