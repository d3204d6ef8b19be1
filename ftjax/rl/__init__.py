"""Online runs: prompts, rollouts, rewards and the batches made of them."""
