"""Which pre-trained weights should a medical imaging model start from? A benchmark that answers with evidence."""
