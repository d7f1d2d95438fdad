// The contracts of ciro: the Job Manager, and a token to try it with.
mod interfaces;
mod job_manager;
mod records;
mod token;
