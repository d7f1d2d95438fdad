//! What a module may ask of its host: WASI preview 1, of which most is refused.
//!
//! Offsets and lengths come from the module. They are checked against its memory
//! by the engine's own accessors, and no more than [`CHUNK`] bytes are copied at
//! a time; a module calls again for more, which costs fuel.

use std::io::{Read, Write};
use std::time::Instant;

use rand::RngCore;
use wasmi::{Caller, Error, ExternType, Linker, Memory, Module, Val};

use super::engine::Host;
use crate::clock;

const NAMESPACE: &str = "wasi_snapshot_preview1";

/// Bytes copied by one call.
const CHUNK: usize = 64 << 10;

/// Buffers of one call.
const BUFFERS_MAX: u32 = 1_024;

/// Error numbers of preview 1.
const SUCCESS: i32 = 0;
const BADF: i32 = 8;
const FAULT: i32 = 21;
const INVAL: i32 = 28;
const IO: i32 = 29;
const NOSYS: i32 = 52;
const SPIPE: i32 = 70;
const NOTCAPABLE: i32 = 76;

const STDIN: i32 = 0;
const STDOUT: i32 = 1;
const STDERR: i32 = 2;

/// Rights to read and to write a descriptor.
const RIGHT_READ: u64 = 1 << 1;
const RIGHT_WRITE: u64 = 1 << 6;

/// What the module reads and writes.
pub struct Pipes {
    pub input: Box<dyn Read + Send>,
    pub output: Box<dyn Write + Send>,
    pub error: Box<dyn Write + Send>,
    started: Instant,
}

impl Pipes {
    pub fn new(
        input: impl Read + Send + 'static,
        output: impl Write + Send + 'static,
        error: impl Write + Send + 'static,
    ) -> Self {
        Self { input: Box::new(input), output: Box::new(output), error: Box::new(error), started: clock::instant() }
    }

    /// Those of this process.
    pub fn of_process() -> Self {
        let output = std::io::BufWriter::with_capacity(CHUNK, std::io::stdout());
        Self::new(std::io::stdin(), output, std::io::stderr())
    }

    /// False if the output is closed.
    pub(super) fn flush(&mut self) -> bool {
        self.output.flush().is_ok()
    }
}

/// Offers what there is, and refuses by an error number whatever else the module imports.
pub(super) fn link(linker: &mut Linker<Host>, module: &Module) -> Result<(), Error> {
    describe(linker)?;
    linker.func_wrap(NAMESPACE, "fd_read", fd_read)?;
    linker.func_wrap(NAMESPACE, "fd_write", fd_write)?;
    linker.func_wrap(NAMESPACE, "random_get", random_get)?;
    linker.func_wrap(NAMESPACE, "clock_time_get", clock_time_get)?;
    linker.func_wrap(NAMESPACE, "clock_res_get", |caller: Caller<'_, Host>, _clock: i32, at: i32| {
        answer(caller, |memory, caller| put(memory, caller, at, &1_000_u64.to_le_bytes()))
    })?;
    linker.func_wrap(NAMESPACE, "sched_yield", || SUCCESS)?;
    linker.func_wrap(NAMESPACE, "proc_exit", |code: i32| Err::<(), _>(Error::i32_exit(code)))?;
    refuse_others(linker, module)
}

/// Descriptors, arguments and environment: three pipes, and nothing else.
fn describe(linker: &mut Linker<Host>) -> Result<(), Error> {
    for name in ["args_sizes_get", "environ_sizes_get"] {
        linker.func_wrap(NAMESPACE, name, |caller: Caller<'_, Host>, count: i32, size: i32| {
            answer(caller, |memory, caller| {
                put(memory, caller, count, &0_u32.to_le_bytes())?;
                put(memory, caller, size, &0_u32.to_le_bytes())
            })
        })?;
    }
    for name in ["args_get", "environ_get"] {
        linker.func_wrap(NAMESPACE, name, |_: i32, _: i32| SUCCESS)?;
    }
    linker.func_wrap(NAMESPACE, "fd_prestat_get", |_: i32, _: i32| BADF)?;
    linker.func_wrap(NAMESPACE, "fd_close", |fd: i32| if is_open(fd) { SUCCESS } else { BADF })?;
    linker.func_wrap(NAMESPACE, "fd_seek", |fd: i32, _: i64, _: i32, _: i32| if is_open(fd) { SPIPE } else { BADF })?;
    linker.func_wrap(NAMESPACE, "fd_fdstat_get", fd_fdstat_get)?;
    Ok(())
}

fn refuse_others(linker: &mut Linker<Host>, module: &Module) -> Result<(), Error> {
    for import in module.imports().filter(|import| import.module() == NAMESPACE) {
        let ExternType::Func(ty) = import.ty() else { continue };
        let name = import.name();
        let number = if name.starts_with("path_") || name.starts_with("sock_") { NOTCAPABLE } else { NOSYS };
        let refuse = move |_: Caller<'_, Host>, _: &[Val], results: &mut [Val]| {
            if let Some(result @ Val::I32(_)) = results.first_mut() {
                *result = Val::I32(number);
            }
            Ok(())
        };
        // What is defined already is offered, not refused; what is imported twice is refused once.
        let _ = linker.func_new(NAMESPACE, name, ty.clone(), refuse);
    }
    Ok(())
}

fn is_open(fd: i32) -> bool {
    (STDIN..=STDERR).contains(&fd)
}

/// Why a call failed: an error number for the module.
struct Refused(i32);

fn memory_of(caller: &Caller<'_, Host>) -> Result<Memory, Refused> {
    caller.get_export("memory").and_then(wasmi::Extern::into_memory).ok_or(Refused(FAULT))
}

fn answer(
    mut caller: Caller<'_, Host>,
    call: impl FnOnce(Memory, &mut Caller<'_, Host>) -> Result<(), Refused>,
) -> i32 {
    match memory_of(&caller).and_then(|memory| call(memory, &mut caller)) {
        Ok(()) => SUCCESS,
        Err(Refused(number)) => number,
    }
}

/// A pointer as the module means it.
#[expect(clippy::cast_sign_loss, reason = "pointers are unsigned")]
fn offset(at: i32) -> usize {
    at as u32 as usize
}

fn put(memory: Memory, caller: &mut Caller<'_, Host>, at: i32, bytes: &[u8]) -> Result<(), Refused> {
    memory.write(caller, offset(at), bytes).map_err(|_| Refused(FAULT))
}

/// The buffers of a vectored read or write that one call serves: together at most [`CHUNK`] bytes.
fn buffers(
    memory: Memory,
    caller: &Caller<'_, Host>,
    list: i32,
    count: i32,
) -> Result<Vec<std::ops::Range<usize>>, Refused> {
    let count = u32::try_from(count).ok().filter(|count| *count <= BUFFERS_MAX).ok_or(Refused(INVAL))?;
    let (mut ranges, mut left) = (Vec::new(), CHUNK);
    for index in 0..count as usize {
        let mut entry = [0; 8];
        memory.read(caller, offset(list) + index * 8, &mut entry).map_err(|_| Refused(FAULT))?;
        let [a, b, c, d, e, f, g, h] = entry;
        let (start, length) = (u32::from_le_bytes([a, b, c, d]) as usize, u32::from_le_bytes([e, f, g, h]) as usize);
        let end = start + length.min(left);
        if end > memory.data_size(caller) {
            return Err(Refused(FAULT));
        }
        left -= end - start;
        ranges.push(start..end);
    }
    Ok(ranges)
}

fn fd_read(caller: Caller<'_, Host>, fd: i32, list: i32, count: i32, read: i32) -> i32 {
    answer(caller, |memory, caller| {
        if fd != STDIN {
            return Err(Refused(BADF));
        }
        let mut total = 0;
        for range in buffers(memory, caller, list, count)? {
            let wanted = range.len();
            let (bytes, host) = memory.data_and_store_mut(&mut *caller);
            let buffer = bytes.get_mut(range).ok_or(Refused(FAULT))?;
            let size = host.pipes.input.read(buffer).map_err(|_| Refused(IO))?;
            total += size;
            if size < wanted {
                break;
            }
        }
        put(memory, caller, read, &count_of(total))
    })
}

fn fd_write(caller: Caller<'_, Host>, fd: i32, list: i32, count: i32, written: i32) -> i32 {
    answer(caller, |memory, caller| {
        if fd != STDOUT && fd != STDERR {
            return Err(Refused(BADF));
        }
        let mut total = 0;
        for range in buffers(memory, caller, list, count)? {
            let (bytes, host) = memory.data_and_store_mut(&mut *caller);
            let bytes = bytes.get(range).ok_or(Refused(FAULT))?;
            let sink = if fd == STDOUT { &mut host.pipes.output } else { &mut host.pipes.error };
            sink.write_all(bytes).map_err(|_| Refused(IO))?;
            total += bytes.len();
        }
        put(memory, caller, written, &count_of(total))
    })
}

/// At most [`CHUNK`], as four bytes.
fn count_of(total: usize) -> [u8; 4] {
    u32::try_from(total).unwrap_or(u32::MAX).to_le_bytes()
}

fn random_get(caller: Caller<'_, Host>, at: i32, length: i32) -> i32 {
    answer(caller, |memory, caller| {
        let (start, length) = (offset(at), offset(length));
        let end = start.checked_add(length).ok_or(Refused(FAULT))?;
        let buffer = memory.data_mut(&mut *caller).get_mut(start..end).ok_or(Refused(FAULT))?;
        if length > CHUNK {
            return Err(Refused(INVAL));
        }
        rand::rng().fill_bytes(buffer);
        Ok(())
    })
}

fn clock_time_get(caller: Caller<'_, Host>, clock: i32, _precision: i64, at: i32) -> i32 {
    answer(caller, |memory, caller| {
        let nanos = match clock {
            0 => clock::now().0.saturating_mul(1_000_000),
            // Monotonic, and CPU time of process and thread: since the start.
            1..=3 => u64::try_from(caller.data().pipes.started.elapsed().as_nanos()).unwrap_or(u64::MAX),
            _ => return Err(Refused(INVAL)),
        };
        put(memory, caller, at, &nanos.to_le_bytes())
    })
}

/// Type 0 is unknown: neither a terminal nor a file.
fn fd_fdstat_get(caller: Caller<'_, Host>, fd: i32, at: i32) -> i32 {
    answer(caller, |memory, caller| {
        if !is_open(fd) {
            return Err(Refused(BADF));
        }
        let rights = if fd == STDIN { RIGHT_READ } else { RIGHT_WRITE };
        let mut stat = [0; 24];
        stat[8..16].copy_from_slice(&rights.to_le_bytes());
        put(memory, caller, at, &stat)
    })
}
