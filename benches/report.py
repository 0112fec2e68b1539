def write_report(cache):
    pass
