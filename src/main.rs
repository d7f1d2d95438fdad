//! Parses, runs, maps how it went to an exit code. All of it is in `ciro::cli`.

fn main() -> std::process::ExitCode {
    ciro::cli::main()
}
