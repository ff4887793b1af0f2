"""Host samples to RGB tensors and back."""
