"""The worked example: will this flight arrive 15 or more minutes late?"""
