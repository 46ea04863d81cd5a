"""Floor 3: the contracts of the slots as tests that anyone can run on their own parts."""

from .contracts import ContractError, check_assigner, check_balancer, check_loss, check_network

__all__ = ["ContractError", "check_assigner", "check_balancer", "check_loss", "check_network"]
