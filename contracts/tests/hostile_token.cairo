// A token that does what a payment token must not, for tests.
//
// It refuses when it is told to, and while it sends it calls the Job Manager
// back, which should find its own books closed by then. Its balances are not
// kept: it counts how often it was asked to send, and how much.

#[starknet::interface]
trait ICancel<TContractState> {
    fn cancel_job(ref self: TContractState, job_id: u256);
}

#[starknet::contract]
mod HostileToken {
    use super::{ICancelDispatcher, ICancelDispatcherTrait};
    use starknet::{ContractAddress, get_caller_address};

    #[storage]
    struct Storage {
        refuses: bool,
        reenters: u256,
        transfers: u64,
        sent: u256,
    }

    // A job id to cancel again while its refund is sent; 0 for none.
    #[external(v0)]
    fn behave(ref self: ContractState, refuses: bool, reenters: u256) {
        self.refuses.write(refuses);
        self.reenters.write(reenters);
    }

    #[external(v0)]
    fn transfer_from(
        ref self: ContractState, sender: ContractAddress, recipient: ContractAddress, amount: u256
    ) -> bool {
        !self.refuses.read()
    }

    #[external(v0)]
    fn transfer(ref self: ContractState, recipient: ContractAddress, amount: u256) -> bool {
        self.transfers.write(self.transfers.read() + 1);
        self.sent.write(self.sent.read() + amount);
        let job_id = self.reenters.read();
        if job_id != 0 {
            ICancelDispatcher { contract_address: get_caller_address() }.cancel_job(job_id);
        }
        !self.refuses.read()
    }

    #[external(v0)]
    fn get_transfers(self: @ContractState) -> (u64, u256) {
        (self.transfers.read(), self.sent.read())
    }
}
