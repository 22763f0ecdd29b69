"""A model looked at without being touched: private copies, batches, selections, and the loss as a function."""
