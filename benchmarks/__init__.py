"""How good the recipes are, beside what one would use instead.

dataset_info  what the datasets of docs/quality.md are measured with
folders       a folder of Parquet files → its datasets, and what each is measured with
datasets      a name → a prepared dataset, in a cache
tasks         a prepared dataset → who is trained on, who is chosen by, who is reported
floors        the opponents without a neural net: popularity, ItemKNN, EASE
neural        the opponents with one, SASRec and eSASRec; their results are stored
sasrec        the command that searches, trains and stores SASRec
esasrec       the same of eSASRec
opponents     both, on all datasets of a folder and several splits
trained       a recipe → as it is trained here: its lengths, protocol, and settings that are tried
cells         one recipe, K, seed and D on a split of a dataset → rows of metrics, kept so that nothing runs twice
measuring     a recommender and users → metrics of each user
variants      outcomes → what is one setting of a recipe, over its seeds and splits
tables        metrics side by side, and `best` against the others
twins         several interests against one, of the same D or of the same K · D
plots         rows and curves → figures
choose        the command to choose settings by: their values side by side, on the valid users alone
encoding      how many users a core encodes
publishing    how fast the items of a version come into Milvus
replica_memory  what loading a version takes of memory and time
retrieval     candidates by our library beside the same calls of pymilvus alone
freshness     how soon events show in rows, and what one updater holds
updating      an updater replica in a process of its own, and its events
quality       the command: cells → tables, reports/quality.json, figures
"""
