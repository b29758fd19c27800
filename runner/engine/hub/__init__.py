"""Models on this machine and on the Hugging Face hub: finding, checking, fetching, explaining."""
