import Foundation
import SelfTest
import Testing

@Suite struct SelfTestOptionsTests {
    @Test func defaultsNeedNoWords() throws {
        #expect(SelfTestOptions().commandLine.isEmpty)
        #expect(try SelfTestOptions(commandLine: "  ") == SelfTestOptions())
    }

    @Test func everyWordSurvivesTheWayThereAndBack() throws {
        let line = """
            memory=512 ws=256 init=0 cpus=3 rate=max reads=250 pattern=hotcold fill=4096 content=text hot=80 hotset=5 \
            phase=9 timer=0 timer_mode=deadline idle=spin seconds=7 check=head seed=99 interval=2 bad_lines=3 vector=sse
            """
        let options = try SelfTestOptions(commandLine: line)
        #expect(options.writeRate == .unlimited)
        #expect(options.initialisedMiB == 0)
        #expect(options.timerHertz == 0)
        #expect(options.commandLine == line)
        #expect(line.split(separator: " ").count == SelfTestOptions.wordNames.count)
    }

    @Test func zeroMeansAbsentWhereTheGuestSaysSo() throws {
        let options = try SelfTestOptions(commandLine: "memory=0 cpus=0 seconds=0 interval=0 ws=0")
        #expect(options == SelfTestOptions())
    }

    @Test(arguments: [
        "rat=1", "rate", "rate=", "rate=-1", "rate=+1", "rate=1000000000", "rate=maximum",
        "memory=99999999999999999999",
        "pattern=idl", "pattern=idler", "fill=7", "fill=4097", "hot=101", "phase=0", "=", "=1", "cpus=65", "timer=1O",
    ])
    func refuses(_ line: String) {
        #expect(throws: SelfTestOptionError.self) { try SelfTestOptions(commandLine: line) }
    }

    @Test func errorsNameTheWord() {
        let error = #expect(throws: SelfTestOptionError.self) {
            try SelfTestOptions(commandLine: "rate=5 pattern=random")
        }
        #expect(error?.description.contains("'pattern=random'") == true)
        #expect(error?.description.contains("hotcold") == true)
    }

    /// The guest has its own list of words; both must know the same.
    @Test func theGuestKnowsEveryWord() {
        let image = Data(SelfTestImage.bytes)
        for name in SelfTestOptions.wordNames {
            #expect(image.range(of: Data("\0\(name)\0".utf8)) != nil, "no option \(name) in the image")
        }
    }
}
