"""How a policy generates tokens and scores them."""
