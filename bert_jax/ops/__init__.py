"""The numerical parts that encoders are built of: attention, layer normalization, activations, dropout."""
