"""Every maximum of Slipstream, with its unit and reason.

Nothing here is tuned for speed: a limit is where refusing is better than going on.
"""

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

# --- images and the tree (docs/format.md)
BLOCK_BYTES = 4096  # leaf of the tree: dm-verity's data and hash block
CHUNK_BLOCKS = 128  # digests in one hash block: 4096 / 32
CHUNK_BYTES = BLOCK_BYTES * CHUNK_BLOCKS  # 512 KiB: what is verified and written at once
SALT_BYTES = 32  # fixed, so that salt and block cannot be split in another way
IMAGE_BYTES_MAX = 1 << 44  # 16 TiB: beyond any partition; keeps all sums far below 2^63

# --- payloads
INDEX_BYTES_MAX = (
    16 * MIB
)  # encoded header and frame table; 1.2 GB full payloads take about 150 KiB
FRAMES_MAX = 1 << 18  # rows of the table: 2 TiB in frames of 8 MiB
FRAME_TABLE_BYTES_MAX = 4 * MIB  # decoded rows, a dozen bytes a frame: 3 to 6 s to check them all
FRAME_SOURCES_MAX = 4096  # source extents of one frame
FRAME_TARGET_BYTES_MAX = 8 * MIB  # decoded length of a zero or copy frame: sits in memory too
FRAME_CODED_TARGET_BYTES_MAX = 8 * MIB  # decoded length of a data or diff frame: sits in memory
FRAME_SOURCE_BYTES_MAX = 16 * MIB  # source bytes of a diff or prefix frame: sit in memory
FRAME_ENCODED_BYTES_MAX = 16 * MIB  # encoded bytes of a frame (soft cap of the encoder: 256 KiB)
FRAME_ENCODED_BYTES_SOFT = 256 * KIB  # what a cut may cost on a thin link
FRAME_PARTS_MAX = 8192  # packed and plain stretches of a frame: 8 MiB of erofs clusters, four times
RECIPES_MAX = 256  # ways of packing that one payload uses
STREAMS_MAX = 1 << 18  # packed stretches that are read from: 32 GiB of content in squashfs blocks
LONG_STREAMS_MAX = 64  # with content that is not unpacked at once: kernels, initrds
STREAM_SOURCES_MAX = 4096  # extents of one of them: a fragmented file
CARVED_MAX = 1 << 17  # compressed files looked for in one image: each is tried, which takes time
STREAM_DEPTH_MAX = 4  # a module in an initrd in a kernel in a disk image
BLOCK_CONTENT_BYTES_MAX = 1 * MIB  # content that is unpacked at once; longer streams have a cursor
PACKED_BLOCK_BYTES_MAX = 2 * MIB  # what that is unpacked from: packing hardly makes anything longer
LONG_STREAM_RATIO_MAX = (
    64  # content per packed byte: text packs 1:10, a bomb of deflate 1:1000, ...
)
LONG_STREAM_BYTES_FREE = 16 * MIB  # ... looked at behind so much: a stream may begin with zeros
UNPACK_CACHE_BYTES = (
    4 * MIB
)  # unpacked blocks kept: the next frame mostly reads from the last one's
UNPACK_MEMORY_BYTES_MAX = 192 * MIB  # one decoder's: zstd --long=27 takes 128 MiB, xz -9 65 MiB
UNPACK_WINDOW_BYTES_MAX = 256 * MIB  # content kept behind the farthest byte of a long stream
UNPACK_AHEAD_BYTES = 1 * MIB  # of a cursor: content behind what was asked for, and packed bytes
UNPACK_WORK_BYTES_FREE = 64 * MIB  # content of blocks that one pass may unpack, and ...
UNPACK_WORK_FACTOR = 64  # ... so many times what streams and target have; payloads of ours: 2 to 4
UNPACK_RESTARTS_MAX = 16  # of cursors in one pass: each may unpack an initrd again, for seconds
SHIFTS_MAX = 4096  # kernels and programs that one payload moves the numbers of
SHIFT_RANGES_MAX = 1 << 16  # ranges of all their shifts: between two Debian kernels there are 3,000
BTF_OWN_RANGES_MAX = 1024  # of one module; more would cost what they save
MOVE_BYTES = 4 * MIB  # held besides a stream while numbers in it are moved
MOVE_WORK_BYTES_FREE = 64 * MIB  # that one pass may move, and ...
MOVE_WORK_FACTOR = 4  # ... so many times what both images have; payloads of ours: 0.1 to 0.3
HELD_BYTES_MAX = 4 * MIB  # target bytes that wait for a long stream's encoder to catch up
EARLY_BYTES_MAX = 64 * KIB  # that it gives before the parts they belong to: headers, a check
RESUME_BYTES = 1 * MIB  # buffers between the decoder and the encoder of a stream that is resumed
NUMBERS_BYTES_MAX = 1 * MIB  # of one diff frame, decoded: 8 bytes of memory for each number
CONTROL_BYTES_MAX = 6 * MIB  # 24 bytes an instruction: 262,144 instructions in a frame
CODEC_DECODED_BYTES_MAX = 16 * MIB  # decoded length of any one stream
CODEC_WINDOW_BYTES_MAX = 8 * MIB  # zstd window and LZMA dictionary a decoder will allocate

# --- packing (what a recipe may ask of a device; memory follows from it, see pack_memory_bytes)
RECIPE_LIBRARY_CHARS_MAX = 32  # "liblzma 5.4.1"
DELTA_LIBRARIES_CHARS_MAX = 512  # all that one delta needs: six names, some in two versions
PACK_XZ_DICT_BYTES_MAX = 64 * MIB  # xz -9; its encoder takes 700 MB
PACK_XZ_BLOCK_BYTES_MIN = 4 * KIB  # squashfs's smallest block
PACK_XZ_BLOCK_BYTES_MAX = 192 * MIB  # xz -T cuts at three dictionaries
PACK_ZSTD_WINDOW_LOG_MAX = 27  # zstd --long and -22 --ultra; more needs a flag to unpack
PACK_CLUSTER_BYTES_MAX = 1 * MIB  # physical cluster of erofs
PACK_AHEAD_BYTES_MAX = 64 * KIB  # content behind a block that its encoder saw; LZ4 looks no farther
LZ4_LEGACY_BLOCK_BYTES = 8 * MIB  # content of a block: the format's own
LZ4_LEGACY_PACKED_BYTES_MAX = LZ4_LEGACY_BLOCK_BYTES * 256 // 255 + 16  # LZ4_COMPRESSBOUND of it
PACK_PIECE_BYTES = 128 * KIB  # given to an encoder at once: ZSTD_CStreamInSize, which shows
GZIP_HEADER_BYTES_MAX = 64 * KIB  # with name and comment; Linux paths end at 4096
GZIP_ANSWER_TIMEOUT_S = 30.0  # for gzip --version; a board under load takes a second
RECIPE_SEARCHES_MAX = 16  # blocks of one image for which all candidates are tried
RECIPES_KEPT_MAX = 8  # recipes of one image that are tried for every block, those that worked last

# --- file systems (build machine): what a map of one image may hold
MAP_NAMES_MAX = (
    1 << 20
)  # names and tables; a full Debian root has 25,000, /usr of a desktop 500,000
MAP_EXTENTS_MAX = 1 << 20  # together; about 180 bytes of memory each
MAP_BLOCKS_MAX = 1 << 20  # compressed blocks: 128 GiB of squashfs, 4 GiB of packed erofs clusters
MAP_PATH_CHARS_MAX = 4096  # of one path: Linux's PATH_MAX
MAP_PATHS_CHARS_MAX = 64 * MIB  # of all paths: deep folders with long names multiply
MAP_REPEATS_MAX = 4  # bytes of all files per byte of image: Android shares blocks between files
EXT_GROUPS_MAX = 1 << 17  # 16 TiB in groups of 128 MiB
FAT_TABLE_BYTES_MAX = 64 * MIB  # 64 GiB in clusters of 4 KiB; the table sits in memory
FAT_DIRECTORY_BYTES_MAX = 2 * MIB  # the format's own: 65,536 records of 32 bytes
FAT_FILES_MAX = 1 << 16  # names on a boot partition; each folder alone may have as many
FAT_FOLLOWED_MAX = 4  # times the clusters of a volume: twins follow the same chain
FAT_RUNS_MAX = 1 << 18  # pieces of all its files; about 100 bytes of memory each
EROFS_DIRECTORY_BYTES_MAX = 64 * MIB  # all directories together: a million names
EROFS_INDEX_BYTES_MAX = 64 * MIB  # cluster and chunk indexes together: 64 GiB of files at the least
EROFS_CLUSTER_BYTES_MAX = MIB  # of one packed cluster: the kernel's own
EROFS_CLUSTER_UNPACKED_BYTES_MAX = 12 * MIB  # the kernel's own
SQUASHFS_TABLE_BYTES_MAX = 64 * MIB  # unpacked: a million inodes with their block lists; in memory
PARTITIONS_MAX = 256  # GPT tables have 128; the numbers of Linux end at 256

# --- manifest
MANIFEST_BYTES_MAX = 256 * KIB
MANIFEST_IMAGES_MAX = 16
ARTIFACTS_MAX = 16  # of one release
FILE_NAME_CHARS_MAX = 64  # of an artifact: Zephyr takes URL paths of up to 199 characters
NAME_CHARS_MAX = 64  # product, version, image, hardware, channel
CHUNK_LIST_BYTES_MAX = IMAGE_BYTES_MAX // CHUNK_BYTES * 32
COUNTER_MAX = (1 << 31) - 1  # release counters and metadata versions
MANIFEST_HARDWARE_MAX = 64
CMDLINE_BYTES_MAX = 64 * KIB  # a kernel takes 2 to 4 KiB; a UKI section may be padded
NOTES_CHARS_MAX = 16 * KIB  # shown to a person
TITLE_CHARS_MAX = 128  # one line of a boot menu
BOOT_OPTIONS_CHARS_MAX = 2047  # COMMAND_LINE_SIZE of x86 and arm64 is 2048 with its final zero
ISSUED_S_MAX = 253_402_300_799  # the end of year 9999: what a TUF date can say

# --- metadata (the caps of python-tuf's client)
ROOT_BYTES_MAX = 512_000
TIMESTAMP_BYTES_MAX = 16_384
SNAPSHOT_BYTES_MAX = 2_000_000
TARGETS_BYTES_MAX = 5_000_000
ROOT_ROTATIONS_MAX = 256
DELEGATIONS_MAX = 32
JSON_DEPTH_MAX = 64
JSON_DIGITS_MAX = 19  # 63 bits; longer numbers cost quadratic time and mean nothing
ROLE_KEYS_MAX = 64  # keys and threshold of one role: each may cost one signature check

# --- publisher
KEYS_MADE_MAX = 16  # keys of one role in a new repository
EXPIRY_DAYS_MAX = 3650  # a signature nobody renews for ten years is not a policy
PASSPHRASE_CHARS_MIN = 12  # the key files' own stretching is weak: 2048 rounds of PBKDF2

# --- network (device)
CONNECT_TIMEOUT_S = 20.0
READ_GAP_TIMEOUT_S = 30.0  # no byte for so long: the connection is dead
RATE_FLOOR_BYTES_PER_S = (
    1024  # averaged over the window below: less is a trickle attack or a dead link
)
RATE_FLOOR_WINDOW_S = 60.0
RETRY_ATTEMPTS_MAX = 8  # consecutive attempts without one new byte
RETRY_DELAY_FIRST_S = 0.5
RETRY_DELAY_MAX_S = 120.0
RETRY_AFTER_MAX_S = 3600.0  # a server's Retry-After is believed up to here
REDIRECTS_MAX = 3
RESPONSE_TIMEOUT_S = 60.0  # request to the end of the response's header, trickled headers too
RETRY_ATTEMPTS_SPARE = 64  # attempts any transfer may take in all, whatever progress it makes, ...
RETRY_BYTES_PER_ATTEMPT = 4 * KIB  # ... plus one for each of these: fewer a connection is no link
WHOLE_RESTARTS_MAX = 8  # times a file is read from its start again from a server without ranges
READ_OVER_BYTES_MAX = 16 * KIB  # gap between wanted ranges that is cheaper than a request
READ_PIECE_BYTES = 64 * KIB  # one read of a response body

# --- device state
SECONDS_MAX = (1 << 36) - 1  # since 1970: the year 4147; beyond it datetime and time_t part ways
CLOCK_S_MIN = (
    1_767_225_600  # the start of 2026: this program is no older, so no clock is right before
)
SIGNED_AHEAD_S_MAX = 86_400  # of a signed time before a clock that is kept right: more is a mistake
STATE_FILE_BYTES_MAX = MIB
WINDOWS_MAX = 64  # maintenance windows: each costs a dozen calendar dates a look
INHIBITORS_MAX = 16  # files that are named in a reason
HEALTH_OUTPUT_BYTES_MAX = 64 * KIB
HEALTH_TIMEOUT_S_MAX = 3600.0
LOOK_TIMEOUT_S = 3600.0  # of an agent at a static repository: the link itself gives up long before
CHECKPOINT_TARGET_BYTES = 16 * MIB  # slot bytes between two fdatasync and journal records
SPOOL_BYTES_MAX = 32 * MIB  # fetched ahead of the slot's last checkpoint
SPOOL_SEGMENT_BYTES = 4 * MIB  # a segment is removed as a whole: what release() may keep too long
SPOOL_SEGMENTS_MAX = 4096  # files read at a restart: far above what SPOOL_BYTES_MAX can hold
FRAME_FETCHES_MAX = 2  # a frame with a wrong digest is fetched once more: a proxy may have hurt it
DENIED_RELEASES_MAX = 64
DEATHS_MAX = 8  # of the device, in one place of an install: then the release is given up
DEATHS_ALL_MAX = (
    24  # of all releases together, since one was installed, but the first in each place
)
ATTEMPTS_KEPT_MAX = (
    8  # releases whose deaths are kept apart; those before them only count in the sum
)
START_DELAY_S_MAX = 3600.0  # before an agent's first round, whatever happened to those before it
REBOOTS_MAX = 3  # asked for without the boot loader trying the release that waits
REBOOTS_ALL_MAX = 8  # asked for because of one release, to it and back from it
FAILED_REASON_CHARS_MAX = 128  # in a poll, of each denied release: together within POLL_BYTES_MAX
DRIFTS_MAX = 32  # frames or chunks that a delta may fail to make before it is given up, ...
DRIFTED_CHUNKS_MAX = (
    256  # ... and their chunks in all: a damaged initrd counts once, for 72 of them
)
DISK_LOCK_ATTEMPTS_MAX = 50  # udev reads a disk that changed within a second, ...
DISK_LOCK_DELAY_S = 0.1  # ... and a partitioning tool that takes longer than 5 s is at work
MEDIA_ATTEMPTS_MAX = 3  # write and read back; then the medium is at fault
EVENTS_KEPT_MAX = 256  # reports not yet delivered; the oldest go first

# --- server
POLL_BYTES_MAX = 64 * KIB
REPORT_BYTES_MAX = 256 * KIB
POLL_INTERVAL_S = 300
POLL_INTERVAL_S_MAX = 7 * 86_400  # a server may not silence a device for longer
RANGES_MAX = 256  # byte ranges of one request; SWUpdate's delta handler asks for some dozens
BODY_TIMEOUT_S = 30.0  # a poll or report that takes longer to arrive is a dead or hostile link
SEND_PIECE_BYTES = 1 * MIB  # handed to the kernel at once while a file is sent
SEND_PIECE_TIMEOUT_S = 1024.0  # a piece that takes longer is below RATE_FLOOR_BYTES_PER_S
SHUTDOWN_GRACE_S = 60.0  # running downloads may take so long after SIGTERM
POLL_FLUSH_S = 3.0  # what polls brought is written so often: a kill loses at most this
REASON_CHARS_MAX = 4096  # free text of a report
SLOTS_MAX = 16  # slots of one device
QUARANTINES_PER_DEVICE_MAX = 64  # as many as a poll may name; the oldest is dropped for a new one
TRAFFIC_BYTES_MAX = 1 << 50  # that a device may say it fetched: a sum over 8,000 of them still fits
REPORTS_PER_DEVICE_MAX = 1000  # older ones are dropped: a device cannot fill the disk
FACTS_AT_ONCE = 1000  # devices read between two looks at the network: 10 ms
PAGE_ROWS_MAX = 500  # devices in one answer or on one page
CENSUS_RELEASES_MAX = 32  # releases counted by name each hour; the rest is "other"
EVENTS_KEPT_S = 92 * 86_400  # of devices; those of a rollout alone stay with it
FORGET_ROWS_MAX = 10_000  # of a table, in one look: a write that nobody waits long behind
CENSUS_KEPT_S = 92 * 86_400  # a quarter: at most 71,000 rows
CHART_S = 7 * 86_400  # how far back "versions over time" looks

# --- who may ask the server, and how often
ADDRESS_RATE = 1000.0  # requests a second of one address, files aside: 300,000 devices behind a NAT
ADDRESS_BURST_S = 10.0  # of that at once: 10,000 devices that come back after a power cut
DEVICE_RATE = (
    5.0  # calls a second of one device: rauc-hawkbit-updater asks every 1 s at its busiest
)
DEVICE_BURST_S = 20.0  # of that at once: SWUpdate sends its log of an install in a hundred posts
FAILURE_RATE = (
    10.0  # wrong credentials a second from one address: guessing is hopeless, logs are not
)
FAILURE_BURST_S = 20.0
BUCKETS_MAX = 200_000  # devices, and addresses, that are told apart: about 30 MB of each
ADDRESSES_CACHED = 16_384  # addresses whose spelling is remembered
FORWARDED_MAX = 16  # proxies in a row
HSTS_S = 365 * 86_400  # browsers come back over TLS only
IDLE_TIMEOUT_S = 75.0  # from a connection, or an answer, to the end of a request's header
CERTIFICATE_LOOK_S = 60.0  # a renewed certificate is noticed so soon
TLS_PIECE_BYTES = 256 * KIB  # of a file, read and sent at once: a connection holds as much
FILES_OPEN_MAX = 65_536  # connections and files of a server, where the system allows so many

# --- waking devices
WAKE_READERS_MAX = 20_000  # devices that listen to one server: each holds a connection
WAKE_KEEPALIVE_S = 45.0  # nginx cuts a stream after 60 s of silence
WAKE_SILENCE_S = 120.0  # two heartbeats missed: the stream is dead
WAKE_STREAM_S = 3600.0  # then a device shows its token again
WAKE_BATCH = 200  # devices looked at between two looks at the network
WAKE_PER_S = 200  # woken devices poll so many a second: the fleet's own polls go on
WAKE_SPREAD_S_MIN = 2
WAKE_SPREAD_S_MAX = 600  # ... or within so long, if there are more
WAKE_LINE_BYTES_MAX = 4096  # of a stream's line
WAKE_AGAIN_S = 5.0  # before a stream that broke is opened again, doubled up to
WAKE_AGAIN_S_MAX = 900.0
WAKE_SPACING_S = 10.0  # a device polls no sooner after its last poll, however often it is woken

# --- pages
LIVE_READERS_MAX = 256  # open pages that hear of changes, of one server: each holds a connection
LIVE_KEEPALIVE_S = 15.0  # a proxy that waits for less cuts the stream; the page opens it again
LIVE_WRITE_TIMEOUT_S = 30.0  # a page that takes longer to read a line is gone
FEED_INTERVAL_S = 1.0  # how old what a live page shows may be
FEED_EVENTS_MAX = 1000  # events read at once
FEED_LOOK_BACK = 256  # ids looked at again: transactions commit in another order than they count
FORM_BYTES_MAX = 64 * KIB  # of a submitted form
TIMELINE_MAX = 100  # lines of a timeline on a page
ROWS_MAX = 100  # devices or rollouts on one page
SIMULATED_SHOWN_MAX = 10_000  # devices simulated beside a form that is filled in
SAMPLE_MAX = 8  # devices shown of those that a filter matches

# --- hawkBit's DDI
FEEDBACK_DETAILS_MAX = 64  # lines of one feedback that are kept; SWUpdate sends up to 48 at once
ACTION_HISTORY_MAX = 100  # lines a device may ask for, as hawkBit has it
ATTRIBUTES_MAX = 500  # of one device; hawkBit's own numbers, as the two below
ATTRIBUTE_KEY_CHARS_MAX = 128
ATTRIBUTE_VALUE_CHARS_MAX = 128

# --- rollouts
FILTER_CHARS_MAX = 4096  # of a target filter: a list of a hundred device ids
FILTER_DEPTH_MAX = 32  # parentheses in parentheses
PHASES_MAX = 32  # of a rollout: each costs a row and a bar on the page
ROLLOUT_RULES_MAX = 16  # abort rules of a phase, budgets of a rollout
SOAK_S_MAX = 90 * 86_400  # a phase that soaks for longer is another rollout
SILENT_AFTER_S = 3 * 86_400  # without a word since the offer: a device behind a weekend is not lost
BUDGET_MAX = 10_000_000  # devices in any count of a plan
SIMULATED_DEVICES_MAX = 1_000_000  # of a simulated rollout: about 1 GB of memory
SIMULATED_S_MAX = 365 * 86_400  # simulated time: a rollout that takes longer is not one
SIMULATED_RUNS_MAX = 1000  # of one plan with different seeds
CURVE_POINTS_MAX = 600  # of a curve: a picture has no more columns that one can tell apart

# --- operators
API_BODY_BYTES_MAX = 256 * KIB  # a plan of 32 phases with all of its rules takes 40 KiB
IMPORT_BYTES_MAX = 4 * MIB  # a CSV file of devices
IMPORT_ROWS_MAX = 10_000  # in one transaction, in which nothing else is written
SCAN_ROWS_MAX = 20_000  # devices that one call looks at for a filter: a tenth of a second
SAMPLE_ROWS_MAX = 100  # devices that a preview of a filter names
LABELS_MAX = 64  # tags, and attributes, of one device
PASSWORD_CHARS_MIN = 12  # NIST SP 800-63B-4 asks for 15 where nothing else is asked for, 8 at least
PASSWORD_CHARS_MAX = 256  # argon2 hashes any length; a person needs no more
LOGINS_AT_ONCE_MAX = 2  # each takes 64 MiB and a core for some 50 ms
LOGIN_WINDOW_S = 300
LOGIN_FAILURES_MAX = 10  # of one name from one address within LOGIN_WINDOW_S, then 429
LOGIN_ADDRESS_FAILURES_MAX = 30  # of one address: an office behind one may forget three passwords
LOGIN_NAME_FAILURES_MAX = 100  # of one name, from strange addresses: 28,800 guesses a day
LOGIN_TOLD_MAX = 100  # failures in the audit log, of all names and addresses within LOGIN_WINDOW_S
LOGIN_WATCHED_MAX = 10_000  # names, addresses, and names at addresses, remembered for that
SESSION_S = 12 * 3600  # a working day: then one logs in again
TOKEN_DAYS_MAX = 3660
TOKEN_OVERLAP_S = 7 * 86_400  # a rotated device token's predecessor is taken for so long
ANSWERS_KEPT_S = 86_400  # a call with an Idempotency-Key may be sent again for so long
AUDIT_SUMMARY_CHARS_MAX = 16_384  # of what was there before or after, in one row of the audit log
WEBHOOKS_MAX = 32
WEBHOOK_TIMEOUT_S = 10.0
WEBHOOK_TRIES_MAX = 17  # 5 s, doubled up to 6 h: given up after 29 hours
WEBHOOK_DELAY_S = 5
WEBHOOK_DELAY_S_MAX = 6 * 3600
WEBHOOK_BATCH_MAX = 50  # of one webhook, in one turn
WEBHOOK_REST_S_MAX = (
    300  # one that fails is tried again after so long at most, with its oldest delivery
)
WEBHOOK_TICK_S = 1.0
WEBHOOK_ROUND_S = 10.0  # a webhook's turn: nothing is begun later than this, ...
WEBHOOK_LEASE_S = 30  # ... so that a turn is over before the lease is
DELIVERIES_KEPT_S = 7 * 86_400
FORGET_S = 3600  # between looks for what is older than it is kept
FLEETLOCK_SLOTS = 1  # of a group without a budget, as airlock has it

# --- the fleet's database
DATABASE_READERS = 8  # connections that read at the same time, of one server
DATABASE_CONNECT_S = 5.0  # PostgreSQL's: TCP alone would take a quarter of an hour to give up
DATABASE_ANSWER_S = 10.0  # one statement
DATABASE_BATCH_S = 25.0  # writes that are committed together: then none of them is waited for
DATABASE_CLOSE_S = 10.0  # what still waits at the end is written in this time, or refused
WRITES_WAITING_MAX = 4096  # of one server: more are refused, and devices come again
WRITE_BATCH_MAX = 64  # writes committed together: a report waits for 63 others at most
LOCK_TIMEOUT_S = 3  # for a row, or its turn to write, of PostgreSQL: then others go first
LOCK_MISSES_MAX = 2  # writes of a batch that wait so long, one after the other; the rest try later
BOARD_REFRESH_S = 1.0  # how old a server's picture of the rollouts may be
LOOP_STALLED_S = 60.0  # a background task that got nothing done for so long fails /healthz
LOOP_BACKOFF_S_MAX = 15.0  # between tries of one that fails
ENGINE_TICK_S = 1.0  # a verdict comes at most so long after the report that decides it
FINISHED_LOOK_S = (
    60  # between looks at finished rollouts to which nothing has happened: silence alone
)
ENGINE_SPACING_S = 0.2  # between looks that reports ask for
ENGINE_LEASE_S = 15  # a server that died is followed by another within this
CROWDED_S = 3600  # a device that waits for room asks for it at least so often
LISTEN_GAP_S = 30  # without a look at the fleet: it was not listened to in between
LISTEN_NOTE_S = 10  # how often it is written down that it is
LISTEN_KEPT_S = 400 * 86_400  # longer than a device may be silent
SOAK_NOTE_S = 5.0  # soak that a kill may lose: the phase soaks for so much longer
TIMEOUTS_MAX = 500  # silent devices looked at in one tick

# --- deltas planned from the fleet
DELTA_SHARE_ASSUMED = 0.25  # of a full payload, where the repository has no delta to learn from
DELTA_TRIES_MAX = 3
DELTA_LEASE_S = 60  # a builder that died is followed by another within this
DELTA_AGAIN_S = 300  # before a build that failed is tried again; doubled each time
DELTA_PLAN_S = 60  # the fleet is counted so often
LINE_CHARS_MAX = 500  # of a reason taken from a program's output
