"""What is computed of a program: only the window that a unit sees, in the forms that a CPU runs fast."""
