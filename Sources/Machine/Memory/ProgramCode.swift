/// The memory that this program's own code takes.

import CKVM

/// Code that is mapped from the program's file, and shared by all processes that run it.
public enum ProgramCode {
    /// Lets go of code that only the start needed (options, configuration, building the machine). What is needed again is
    /// mapped again from the page cache; nothing is read from a disk that has not been read before, unless the host is
    /// short of memory.
    public static func trim() { ckvm_forget_code() }
}
