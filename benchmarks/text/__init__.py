"""A comparison on text: six ways of training one small GPT at equal steps."""
