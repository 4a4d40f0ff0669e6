"""What a network is to this room, and the parts that networks are made of."""
