//! One run of one module, in this process.

use wasmi::errors::{ErrorKind, InstantiationError};
use wasmi::{Config, Engine, Error, Linker, Module, Store, StoreLimits, StoreLimitsBuilder, TrapCode};

use super::EXIT_MAX;
use super::wasi::{self, Pipes};

/// Elements of a table; each takes some bytes of ours.
const TABLE_MAX: usize = 1 << 20;
const TABLES_MAX: usize = 16;

/// Nested calls, and bytes of the stack they use.
const DEPTH_MAX: usize = 10_000;
const STACK_MAX: usize = 16 << 20;

/// What a run may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of linear memory.
    pub memory_bytes: u64,
    /// About one unit per instruction.
    pub fuel: u64,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself, with 0 to [`EXIT_MAX`].
    Exit(u8),
    Trap(String),
    OutOfFuel,
    /// It asked for more memory, or a larger table, than allowed.
    OutOfMemory,
    /// Not a module, or one that needs what there is not.
    Invalid(String),
    /// It is not the module: the run could not begin.
    Broken(String),
}

/// Exit codes of the process beyond those of modules.
const TRAP: u8 = 240;
const OUT_OF_FUEL: u8 = 241;
const OUT_OF_MEMORY: u8 = 242;
const INVALID: u8 = 243;
const BROKEN: u8 = 244;

impl End {
    /// The exit code that says it.
    pub fn code(&self) -> u8 {
        match self {
            Self::Exit(code) => *code,
            Self::Trap(_) => TRAP,
            Self::OutOfFuel => OUT_OF_FUEL,
            Self::OutOfMemory => OUT_OF_MEMORY,
            Self::Invalid(_) => INVALID,
            Self::Broken(_) => BROKEN,
        }
    }

    /// What to say on standard error.
    pub fn detail(&self) -> Option<&str> {
        match self {
            Self::Exit(_) => None,
            Self::OutOfFuel => Some("the module used up its fuel"),
            Self::OutOfMemory => Some("the module wanted more memory than allowed"),
            Self::Trap(detail) | Self::Invalid(detail) | Self::Broken(detail) => Some(detail),
        }
    }

    /// The stable code of a failure that an exit code of the process stands for. `None`: the module's own.
    pub fn failure_code(exit_code: i32) -> Option<&'static str> {
        match u8::try_from(exit_code).ok()? {
            TRAP => Some("wasm_trap"),
            OUT_OF_FUEL => Some("wasm_out_of_fuel"),
            OUT_OF_MEMORY => Some("wasm_out_of_memory"),
            INVALID => Some("wasm_invalid"),
            BROKEN => Some("wasm_broken"),
            _ => None,
        }
    }
}

/// What the store knows: the limits, and what the module talks to.
pub(super) struct Host {
    pub pipes: Pipes,
    limits: StoreLimits,
}

fn store_limits(memory_bytes: u64) -> StoreLimits {
    StoreLimitsBuilder::new()
        .memory_size(usize::try_from(memory_bytes).unwrap_or(usize::MAX))
        .table_elements(TABLE_MAX)
        .instances(1)
        .memories(1)
        .tables(TABLES_MAX)
        // To be told so is what a client needs; what it does with -1 is seldom more than to abort.
        .trap_on_grow_failure(true)
        .build()
}

/// Runs `module` to its end.
pub fn run(module: &[u8], limits: Limits, pipes: Pipes) -> End {
    let mut config = Config::default();
    config.consume_fuel(true).wasm_multi_memory(false);
    config.set_max_stack_height(STACK_MAX).set_max_recursion_depth(DEPTH_MAX);
    let engine = Engine::new(&config);
    let module = match Module::new(&engine, module) {
        Ok(module) => module,
        Err(error) => return End::Invalid(format!("not a module that runs here: {error}")),
    };
    let mut store = Store::new(&engine, Host { pipes, limits: store_limits(limits.memory_bytes) });
    store.limiter(|host| &mut host.limits);
    if let Err(error) = store.set_fuel(limits.fuel) {
        return End::Broken(format!("set fuel: {error}"));
    }
    let done = start(&engine, &module, &mut store);
    let flushed = store.data_mut().pipes.flush();
    match done {
        Ok(()) if flushed => End::Exit(0),
        Ok(()) => End::Broken("standard output is closed".to_owned()),
        Err(Failed::Before(error)) => before(&error),
        Err(Failed::During(error)) => during(&error),
    }
}

enum Failed {
    /// Before an instruction of the module ran.
    Before(Error),
    During(Error),
}

fn start(engine: &Engine, module: &Module, store: &mut Store<Host>) -> Result<(), Failed> {
    let mut linker = Linker::new(engine);
    wasi::link(&mut linker, module).map_err(Failed::Before)?;
    let instance = linker.instantiate_and_start(&mut *store, module).map_err(Failed::Before)?;
    let main = instance.get_typed_func::<(), ()>(&*store, "_start").map_err(Failed::Before)?;
    main.call(store, ()).map_err(Failed::During)
}

fn before(error: &Error) -> End {
    // A module may have a start function, which runs before.
    if error.as_trap_code().is_some() || error.i32_exit_status().is_some() {
        return during(error);
    }
    let too_large = matches!(
        error.kind(),
        ErrorKind::Instantiation(
            InstantiationError::FailedToInstantiateMemory(_) | InstantiationError::FailedToInstantiateTable(_)
        )
    );
    if too_large {
        return End::OutOfMemory;
    }
    End::Invalid(format!("the module can not be started: {error}"))
}

fn during(error: &Error) -> End {
    if let Some(status) = error.i32_exit_status() {
        let code = if (0..=EXIT_MAX).contains(&status) { status } else { EXIT_MAX };
        return End::Exit(u8::try_from(code).unwrap_or(u8::MAX >> 1));
    }
    match error.as_trap_code() {
        Some(TrapCode::OutOfFuel) => End::OutOfFuel,
        Some(TrapCode::GrowthOperationLimited | TrapCode::OutOfSystemMemory) => End::OutOfMemory,
        _ => End::Trap(format!("the module trapped: {error}")),
    }
}
