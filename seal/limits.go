package seal

// The numbers of format v1, each with its reason. All are checked before
// memory is allocated for what they bound.
const (
	// maxHeaderBytes bounds a frame's header: an open with a hundred
	// escrows, or an erase with thousands of positions, fits.
	maxHeaderBytes = 32 << 10

	// maxSectionBytes bounds a section, as stored and uncompressed: what a
	// verifier must hold in memory for one entry.
	maxSectionBytes = 8 << 20

	// maxEntryRecords bounds the records of an entry: leaf hashes of one
	// entry take 2 MiB.
	maxEntryRecords = 1 << 16

	// maxOriginBytes bounds an origin, which is also a directory name.
	maxOriginBytes = 200

	// maxTextBytes bounds the free text of erase and prune.
	maxTextBytes = 1024

	// maxSVIDBytes and maxSVIDCerts bound a certificate chain.
	maxSVIDBytes = 64 << 10
	maxSVIDCerts = 10

	// maxZstdWindow bounds what a decompressor must keep.
	maxZstdWindow = 8 << 20

	seedBytes  = 32 // in front of every body
	saltBytes  = 16 // per record, derived from the seed
	nonceBytes = 32 // in front of every filter

	filterHashes     = 7  // k: about 1% false positives at 10 bits a key
	filterBitsPerKey = 10 //

	// tornBlock is the unit in which disks lose writes.
	tornBlock = 512

	// shareBelowBytes: a request smaller than this shares its entry with
	// others of its signal. A larger one is encoded by its own caller.
	shareBelowBytes = 16 << 10

	// shareUntilBytes: a shared entry that has grown this large is encoded
	// by the caller who filled it, so that the committer never has more
	// than this left to encode for each signal.
	shareUntilBytes = 64 << 10

	// groupMaxBytes bounds the uncompressed bytes of one commit group, and
	// so what a crash can cost and what recovery must read.
	groupMaxBytes = 16 << 20
)
