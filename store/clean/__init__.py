"""What killed and finished work leaves behind."""
