@main
struct Migratectl {
    static func main() {}
}
