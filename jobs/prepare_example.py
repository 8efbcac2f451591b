"""The settings file that `python -m jobs.prepare --example` prints: TOML, to be changed for one's own log."""

EXAMPLE = """\
# Settings of `python -m jobs.prepare --config prepare.toml`: raw logs in, a prepared dataset out.
# Lines that begin with "# " are explanations, those with "#" and a name are settings at their defaults or further
# possibilities. All settings: `python -m jobs.prepare --help`. The command line wins over this file.

output = "data/shop"            # directory or URI (s3://bucket/shop) of the dataset; every worker must reach it
id_type = "string"              # user and item ids: "int64" or "string" (which takes any)

max_user_events = 2000          # of each user keep the newest so many events: bots do not rule training; 0 for all
min_item_events = 5             # then keep items with so many events
min_user_events = 5             # then keep users with so many events on kept items
#max_rejected_fraction = 0.01   # stop when more than this share of the rows is unusable
#num_buckets = 24               # files per split: a multiple of the training workers; one must fit into a worker's memory
#overwrite = false              # replace a dataset that is already there

[log]                           # who touched what and when
paths = ["raw/events.csv"]      # files and directories, local or by URI
format = "csv"                  # or "parquet"
delimiter = ","
user_column = "visitor"
item_column = "sku"
timestamp_column = "at"
time_unit = "auto"              # or "s", "ms", "us", "ns", "iso"; "order" for positions that are no times
event_type_column = "action"    # without the next two lines every row is a behavior
event_types = ["view", "cart", "purchase"]
#behavior = ["event_type"]      # what kind of behavior an event is, for models that read it; other columns, too
#context = ["page"]             # in what moment it happened, for models that are asked in a context

[items]                         # what is known of items, one row each; leave the section out if there is nothing
paths = ["raw/catalog.csv"]
format = "csv"
id_column = "sku"
decimal = ","                   # numbers in texts are written 1,50; "." for 1.50
columns = ["title", "price_text=Preis (EUR)"]   # kept for display and filters; name=column gives another name
available_from = "on_sale"      # an item is recommended from this time on; leave the line out if it always may be
available_until = "off_sale"    # and no longer from this one on; an empty value is no bound
available_unit = "iso"          # what the values of both are; as in the log where the line is left out
#keep_cold = true               # keep items that the log lacks: their features may find them

[[items.features]]              # features the model learns from
name = "brand"

[[items.features]]
name = "tags"
kind = "categories"             # several values: a list in Parquet, or one text
separator = "|"

[[items.features]]
name = "description"
kind = "words"                  # the words of a text, in any case of letters

[[items.features]]
name = "price"
column = "Preis (EUR)"          # a name is made of letters, digits and _; the column may be called anything
kind = "continuous"             # a number or time, read as it is; "buckets" cuts it into buckets of equal size instead
scale = "log"                   # its logarithm, for prices and counts; "linear" for the number itself
bucketed = true                 # and cut into buckets, too
num_buckets = 10

[users]                         # profiles, one row a user; leave the section out if there are none
paths = ["raw/visitors.csv"]
format = "csv"
id_column = "visitor"

[[users.features]]
name = "country"

[[users.features]]
name = "age"
kind = "buckets"

[split]
by = "user"                     # whole users, shuffled: 80 % train, 10 % valid, 10 % test
#train_fraction = 0.8
#valid_fraction = 0.1
#by = "time"                    # or what happened before two points in time
#train_before_ms = 1704067200000
#valid_before_ms = 1706745600000
#by = "leave-one-out"           # or everybody's last event for testing, and the one before it for validation
"""
