"""The feature bank: a data set's activations at named layers, computed once, kept on disk."""

from advjax.bank.bank import Bank as Bank
from advjax.bank.bank import BankError as BankError
from advjax.bank.bank import open_bank as open_bank
from advjax.bank.build import bank_name as bank_name
from advjax.bank.build import build_bank as build_bank
from advjax.networks.identity import weights_hash as weights_hash
