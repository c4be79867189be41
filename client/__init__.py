"""What a region (data centre) runs."""
