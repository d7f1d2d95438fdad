//! Backups that the node takes by itself, as figures.

use super::figures::{Figure, Unit, Value};
use super::metrics::Backup;

pub(super) fn figures(backup: &Backup) -> Vec<Figure> {
    let one = |name, unit, help, value| Figure::one(name, unit, help, value);
    let mut figures = vec![
        one(
            "ciro_backups_taken",
            Unit::None,
            "Scheduled backups taken since start",
            Value::Counter(backup.taken as f64),
        ),
        one("ciro_backups_failed", Unit::None, "Scheduled backups that failed", Value::Counter(backup.failed as f64)),
        one(
            "ciro_backup_failing",
            Unit::None,
            "Whether the last scheduled backup failed",
            Value::Gauge(f64::from(u8::from(backup.failing))),
        ),
    ];
    if let Some(at) = backup.last_at_ms {
        let at = Value::Gauge(at as f64 / 1_000.0);
        figures.push(one("ciro_backup_last_timestamp", Unit::Seconds, "When the last backup was taken", at));
    }
    if let Some(bytes) = backup.last_bytes {
        let bytes = Value::Gauge(bytes as f64);
        figures.push(one("ciro_backup_last_size", Unit::Bytes, "Size of the last backup", bytes));
    }
    figures
}
