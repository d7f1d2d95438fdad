mod erc20;
mod job_manager;
