// A plain ERC-20 for development networks: what the Job Manager is paid in there.
//
// Invariants: the balances add up to the total supply; only the owner, who is
// the first recipient, mints.
//
// Deliberately absent: camelCase entry points, burning, permits, upgrades. On a
// public network the Job Manager is given a token that exists there.

#[starknet::interface]
trait IMint<TContractState> {
    fn mint(ref self: TContractState, recipient: starknet::ContractAddress, amount: u256);
    fn owner(self: @TContractState) -> starknet::ContractAddress;
}

#[starknet::contract]
mod Token {
    use starknet::{ContractAddress, get_caller_address};
    use traits::Into;
    use ciro_contracts::interfaces::erc20::IERC20;

    #[storage]
    struct Storage {
        name: felt252,
        symbol: felt252,
        decimals: u8,
        owner: ContractAddress,
        total_supply: u256,
        balances: LegacyMap<ContractAddress, u256>,
        allowances: LegacyMap<(ContractAddress, ContractAddress), u256>,
    }

    #[event]
    #[derive(Drop, starknet::Event)]
    enum Event {
        Transfer: Transfer,
        Approval: Approval,
    }

    #[derive(Drop, starknet::Event)]
    struct Transfer {
        #[key]
        from: ContractAddress,
        #[key]
        to: ContractAddress,
        value: u256,
    }

    #[derive(Drop, starknet::Event)]
    struct Approval {
        #[key]
        owner: ContractAddress,
        #[key]
        spender: ContractAddress,
        value: u256,
    }

    #[constructor]
    fn constructor(
        ref self: ContractState,
        name: felt252,
        symbol: felt252,
        decimals: u8,
        initial_supply: u256,
        recipient: ContractAddress
    ) {
        self.name.write(name);
        self.symbol.write(symbol);
        self.decimals.write(decimals);
        self.owner.write(recipient);
        create(ref self, recipient, initial_supply);
    }

    #[external(v0)]
    impl Erc20 of IERC20<ContractState> {
        fn name(self: @ContractState) -> felt252 {
            self.name.read()
        }

        fn symbol(self: @ContractState) -> felt252 {
            self.symbol.read()
        }

        fn decimals(self: @ContractState) -> u8 {
            self.decimals.read()
        }

        fn total_supply(self: @ContractState) -> u256 {
            self.total_supply.read()
        }

        fn balance_of(self: @ContractState, account: ContractAddress) -> u256 {
            self.balances.read(account)
        }

        fn allowance(
            self: @ContractState, owner: ContractAddress, spender: ContractAddress
        ) -> u256 {
            self.allowances.read((owner, spender))
        }

        fn transfer(ref self: ContractState, recipient: ContractAddress, amount: u256) -> bool {
            move_balance(ref self, get_caller_address(), recipient, amount);
            true
        }

        fn transfer_from(
            ref self: ContractState,
            sender: ContractAddress,
            recipient: ContractAddress,
            amount: u256
        ) -> bool {
            let spender = get_caller_address();
            let allowed = self.allowances.read((sender, spender));
            assert(amount <= allowed, 'ALLOWANCE_TOO_LOW');
            self.allowances.write((sender, spender), allowed - amount);
            move_balance(ref self, sender, recipient, amount);
            true
        }

        fn approve(ref self: ContractState, spender: ContractAddress, amount: u256) -> bool {
            let owner = get_caller_address();
            self.allowances.write((owner, spender), amount);
            self.emit(Approval { owner, spender, value: amount });
            true
        }
    }

    #[external(v0)]
    impl Mint of super::IMint<ContractState> {
        fn mint(ref self: ContractState, recipient: ContractAddress, amount: u256) {
            assert(get_caller_address() == self.owner.read(), 'NOT_OWNER');
            create(ref self, recipient, amount);
        }

        fn owner(self: @ContractState) -> ContractAddress {
            self.owner.read()
        }
    }

    fn create(ref self: ContractState, recipient: ContractAddress, amount: u256) {
        assert(recipient.into() != 0, 'BAD_ADDRESS');
        self.total_supply.write(self.total_supply.read() + amount);
        self.balances.write(recipient, self.balances.read(recipient) + amount);
        let from = starknet::contract_address_const::<0>();
        self.emit(Transfer { from, to: recipient, value: amount });
    }

    fn move_balance(
        ref self: ContractState, from: ContractAddress, to: ContractAddress, amount: u256
    ) {
        assert(to.into() != 0, 'BAD_ADDRESS');
        let balance = self.balances.read(from);
        assert(amount <= balance, 'BALANCE_TOO_LOW');
        self.balances.write(from, balance - amount);
        self.balances.write(to, self.balances.read(to) + amount);
        self.emit(Transfer { from, to, value: amount });
    }
}
