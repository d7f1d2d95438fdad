//! Parses, runs, maps how it went to an exit code. All of it is in `ciro::cli`.
//!
//! The allocator is jemalloc, because a node that had many jobs gives their
//! memory back (see `.cargo/config.toml`); with the system's it kept it.

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    ciro::cli::main()
}
