"""What ``flask phoenix doctor`` looks at: one module for each subject."""
