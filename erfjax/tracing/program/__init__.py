"""What the program is: its equations in order, calls inlined, and which of them are one layer."""
