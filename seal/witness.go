package seal

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Witness is somebody who cosigns checkpoints and never two that contradict
// each other.
type Witness struct {
	VerifierKey string
	URL         string // prefix of its C2SP tlog-witness interface; "": it cannot be asked
	key         *cosignatureKey
}

// NewWitness checks a witness's verifier key and its URL, which may be empty.
func NewWitness(vkey, rawURL string) (Witness, error) {
	key, err := parseCosignatureKey(vkey)
	if err != nil {
		return Witness{}, err
	}
	if rawURL != "" {
		u, err := url.Parse(rawURL)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
			return Witness{}, fmt.Errorf("%q is no URL of a witness, e.g. https://witness.example.org", clip(rawURL))
		}
	}
	return Witness{vkey, strings.TrimRight(rawURL, "/"), key}, nil
}

// Name is in the witness's key.
func (w *Witness) Name() string { return w.key.name }

// WitnessPolicy says whose cosignatures count and how many are enough.
type WitnessPolicy struct {
	Witnesses []Witness
	Quorum    int // of them; 0 without witnesses
}

// NewWitnessPolicy checks a policy. Quorum 0 means all.
func NewWitnessPolicy(ws []Witness, quorum int) (*WitnessPolicy, error) {
	if quorum == 0 {
		quorum = len(ws)
	}
	if quorum < 0 || quorum > len(ws) {
		return nil, fmt.Errorf("a quorum of %d of %d witnesses", quorum, len(ws))
	}
	for i := range ws {
		for j := range i {
			if bytes.Equal(ws[i].key.pub, ws[j].key.pub) {
				return nil, fmt.Errorf("%s and %s are one witness: they have the same key", ws[j].Name(), ws[i].Name())
			}
			if ws[i].Name() == ws[j].Name() && ws[i].key.hash == ws[j].key.hash {
				return nil, fmt.Errorf("two keys of %s have the same hash", ws[i].Name())
			}
		}
	}
	return &WitnessPolicy{ws, quorum}, nil
}

func (p *WitnessPolicy) empty() bool { return p == nil || len(p.Witnesses) == 0 }

// WitnessClient speaks C2SP tlog-witness. What it returns is checked by who
// calls it, but must be bounded.
type WitnessClient interface {
	// AddCheckpoint submits a checkpoint, with the consistency proof from the
	// size old, and returns the lines that were answered. A *WitnessConflict
	// says that old is not the size that the witness knows, a *WitnessRefusal
	// that it answered otherwise.
	AddCheckpoint(ctx context.Context, w *Witness, old uint64, proof []Hash, checkpoint []byte) ([]byte, error)

	// Checkpoint returns the newest checkpoint that the witness cosigned of
	// a log. ErrUnseen: none, or the witness does not tell.
	Checkpoint(ctx context.Context, w *Witness, origin string) ([]byte, error)
}

// ErrUnseen: a witness shows no checkpoint of a log.
var ErrUnseen = errors.New("the witness shows no checkpoint of this log")

// WitnessConflict: the size submitted from is not the one the witness knows.
type WitnessConflict struct{ Size uint64 }

func (e *WitnessConflict) Error() string {
	return fmt.Sprintf("the witness has seen %d entries", e.Size)
}

// WitnessRefusal: the witness did not cosign.
type WitnessRefusal struct {
	Status int // of HTTP
	Text   string
}

func (e *WitnessRefusal) Error() string {
	why := map[int]string{
		400: "it takes the request for malformed",
		403: "it does not trust this log's key: add the log's line to its configuration",
		404: "it does not know this log: add the log's line to its configuration",
		422: "it has seen another history of this log: run meshaudit verify --witness",
	}[e.Status]
	if why == "" {
		why = clip(e.Text)
	}
	return fmt.Sprintf("the witness answered %d: %s", e.Status, why)
}

// ContradictionError: a checkpoint that this log's key signed, and that a
// witness holds, is not one of this log. The log was rolled back, or another
// writer has its key.
type ContradictionError struct{ What string }

func (e *ContradictionError) Error() string {
	return e.What + ": this log was cut or rolled back, or another writer has its key; run `meshaudit verify --witness`, restore it from a copy, or start a log with a new origin"
}

// seen is what a witness knows of a log.
type seen struct {
	size   uint64
	root   Hash
	note   []byte // nil: only its size was said, and nobody signed that
	signed bool   // the note bears the log's signature
	cosig  *Cosignature
}

// lookUp asks one witness what it has seen of a log. own, if not nil, is a
// checkpoint of the log: a witness that shows none says, when that is
// submitted as known, which size it knows. size 0: it has seen nothing.
func lookUp(ctx context.Context, c WitnessClient, w *Witness, origin string, keys logKeys, own []byte) (*seen, error) {
	b, err := c.Checkpoint(ctx, w, origin)
	if err == nil {
		return readSeen(b, w, origin, keys)
	}
	if !errors.Is(err, ErrUnseen) || own == nil {
		return nil, err
	}
	at, err := openCheckpoint(own, nil)
	if err != nil {
		return nil, err
	}
	lines, err := c.AddCheckpoint(ctx, w, at.Size, nil, own)
	var conflict *WitnessConflict
	switch {
	case err == nil:
		return readSeen(append(bytes.Clone(own), lines...), w, origin, keys)
	case errors.As(err, &conflict):
		return &seen{size: conflict.Size}, nil
	}
	return nil, err
}

// logKeys finds the key that may sign a log's checkpoint of a size; nil if no
// key is known.
type logKeys func(size uint64) note.Verifier

func readSeen(b []byte, w *Witness, origin string, keys logKeys) (*seen, error) {
	c, err := openCheckpoint(b, nil)
	if err != nil {
		return nil, fmt.Errorf("the witness showed no checkpoint: %w", err)
	}
	if c.Origin != origin {
		return nil, fmt.Errorf("the witness showed a checkpoint of %s", c.Origin)
	}
	s := &seen{size: c.Size, root: c.Root, note: b}
	if k := keys(c.Size); k != nil {
		_, err := openCheckpoint(b, k)
		s.signed = err == nil
	}
	cosigs, err := (&WitnessPolicy{Witnesses: []Witness{*w}}).cosignatures(b)
	if err != nil {
		return nil, err
	}
	if len(cosigs) == 0 {
		return nil, errors.New("the witness showed a checkpoint that it did not cosign")
	}
	s.cosig = &cosigs[0]
	s.cosig.Witness = w
	return s, nil
}

// Witnessing says how a checkpoint fared with the witnesses.
type Witnessing struct {
	Size     uint64 // of the checkpoint
	Cosigned int
	Quorum   int
	Failures []WitnessFailure
}

// Enough reports whether the quorum was reached.
func (w *Witnessing) Enough() bool { return w.Cosigned >= w.Quorum }

// WitnessFailure is why a witness did not cosign.
type WitnessFailure struct {
	Witness string // its name
	Reason  string // unreachable, slow, refused, conflict or invalid
	Err     error
}

func (f WitnessFailure) Error() string { return f.Witness + ": " + f.Err.Error() }

// witnesses submits a log's checkpoints. The publisher's goroutine calls it.
type witnesses struct {
	cfg    *Config
	dir    string
	keys   logKeys
	states []*witnessState
	stop   func(error) // for good
	late   sync.WaitGroup
}

// witnessState is what is known of one witness, between submissions.
type witnessState struct {
	*Witness
	mu   sync.Mutex // held while something is submitted to it
	size uint64     // the last that it said or cosigned
}

// grace is how long the others may take once there are enough cosignatures.
const witnessGrace = 200 * time.Millisecond

// witnessRetry is how long after a failure a witness is tried again while
// callers wait.
const witnessRetry = 100 * time.Millisecond

// sleep reports whether it could sleep to the end.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

func newWitnesses(w *Writer) *witnesses {
	if w.cfg.Witnesses.empty() {
		return nil
	}
	ws := &witnesses{cfg: &w.cfg, dir: w.dir, keys: func(uint64) note.Verifier { return w.verifier }, stop: w.Stop}
	for i := range w.cfg.Witnesses.Witnesses {
		ws.states = append(ws.states, &witnessState{Witness: &w.cfg.Witnesses.Witnesses[i]})
	}
	return ws
}

// check compares a log that is about to be written on with what its witnesses
// have seen. A witness that does not answer is passed over: what it has seen
// comes out when something is submitted.
func (ws *witnesses) check(size uint64, root Hash, own []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), ws.cfg.WitnessTimeout)
	defer cancel()
	errs := make([]error, len(ws.states))
	var wg sync.WaitGroup
	for i, st := range ws.states {
		wg.Go(func() {
			s, err := lookUp(ctx, ws.cfg.WitnessClient, st.Witness, ws.cfg.Origin, ws.keys, own)
			if err != nil {
				return
			}
			st.size = s.size
			switch {
			case s.size > size:
				errs[i] = &ContradictionError{fmt.Sprintf("the log has %d entries, and witness %s has seen %d (if you know that it lies, remove it from `witnesses`)", size, st.Name(), s.size)}
			case s.size == size && s.note != nil && s.root != root:
				errs[i] = &ContradictionError{fmt.Sprintf("witness %s has seen another root for %d entries", st.Name(), size)}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// cosign submits a checkpoint, whose tiles are stored, to all witnesses at
// once and returns it with the cosignatures of those that gave one.
func (ws *witnesses) cosign(ctx context.Context, s *snapshot) ([]byte, Witnessing) {
	checkpoint := bytes.Clone(s.checkpoint) // its array is not ours to append to
	at, err := openCheckpoint(checkpoint, nil)
	if err != nil {
		panic(err) // it is our own
	}
	sub := &submission{at, checkpoint, snapshotTiles{tileReader{&Log{Origin: at.Origin, dir: ws.dir, fs: ws.cfg.FS}}, s.partial}}
	r := Witnessing{Size: at.Size, Quorum: ws.cfg.Witnesses.Quorum}
	type answer struct {
		line string
		fail *WitnessFailure
	}
	answers := make(chan answer, len(ws.states))
	ctx, cancel := context.WithTimeout(ctx, ws.cfg.WitnessTimeout)
	waiting := 0
	var begun sync.WaitGroup
	for _, st := range ws.states {
		if !st.mu.TryLock() { // the last checkpoint is still with it
			r.Failures = append(r.Failures, WitnessFailure{st.Name(), "slow", errors.New("it has not yet answered to an earlier checkpoint")})
			continue
		}
		waiting++
		ws.late.Add(1)
		begun.Add(1)
		go func() {
			defer ws.late.Done()
			defer begun.Done()
			defer st.mu.Unlock()
			line, fail := ws.submit(ctx, st, sub)
			for ws.cfg.AckWitnessed && fail != nil && fail.Reason == "unreachable" && sleep(ctx, witnessRetry) {
				line, fail = ws.submit(ctx, st, sub) // callers wait
			}
			answers <- answer{line, fail}
		}()
	}
	go func() { begun.Wait(); cancel() }()
	cosigned := checkpoint
	var grace <-chan time.Time
	for ; waiting > 0; waiting-- {
		select {
		case a := <-answers:
			if a.fail != nil {
				r.Failures = append(r.Failures, *a.fail)
				continue
			}
			cosigned = append(cosigned, a.line...)
			if r.Cosigned++; r.Enough() && grace == nil {
				grace = time.After(witnessGrace)
			}
		case <-grace:
			return cosigned, r
		}
	}
	return cosigned, r
}

// submission is a checkpoint, and the tiles under it.
type submission struct {
	at         Checkpoint
	checkpoint []byte
	tiles      tlog.TileReader
}

// snapshotTiles reads the partial tiles from memory: a store where nothing is
// replaced has none.
type snapshotTiles struct {
	tileReader
	partial []tile
}

func (r snapshotTiles) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	for i, t := range tiles {
		j := slices.IndexFunc(r.partial, func(p tile) bool { return p.level == t.L && p.index == uint64(t.N) })
		if j >= 0 && len(r.partial[j].hashes) >= t.W {
			data[i] = r.partial[j].bytes()[:t.W*sha256.Size]
			continue
		}
		b, err := r.tileReader.ReadTiles(tiles[i : i+1])
		if err != nil {
			return nil, err
		}
		data[i] = b[0]
	}
	return data, nil
}

// submit brings one witness up to a checkpoint.
func (ws *witnesses) submit(ctx context.Context, st *witnessState, sub *submission) (line string, fail *WitnessFailure) {
	at, checkpoint := sub.at, sub.checkpoint
	failed := func(reason string, err error) (string, *WitnessFailure) {
		return "", &WitnessFailure{st.Name(), reason, err}
	}
	for range 3 { // a conflict tells the size; another writer of this log may come between
		if st.size > at.Size {
			ws.confront(ctx, st, sub)
			said := st.size
			st.size = 0 // if that was wrong, it says so the next time
			return failed("conflict", fmt.Errorf("it says that it has seen %d entries, and the log has %d", said, at.Size))
		}
		proof, err := proveConsistency(sub.tiles, at, st.size)
		if err != nil {
			return failed("unreachable", fmt.Errorf("consistency proof from %d to %d entries: %w", st.size, at.Size, err))
		}
		answer, err := ws.cfg.WitnessClient.AddCheckpoint(ctx, st.Witness, st.size, proof, checkpoint)
		var conflict *WitnessConflict
		var refusal *WitnessRefusal
		switch {
		case errors.As(err, &conflict):
			st.size = conflict.Size
			continue
		case errors.As(err, &refusal):
			ws.confront(ctx, st, sub)
			return failed("refused", err)
		case err != nil:
			return failed("unreachable", err)
		}
		cosigs, err := (&WitnessPolicy{Witnesses: []Witness{*st.Witness}}).cosignatures(append(bytes.Clone(checkpoint), answer...))
		if err == nil && len(cosigs) == 0 {
			err = errors.New("it answered without a cosignature of its key")
		}
		if err != nil {
			return failed("invalid", err)
		}
		st.size = at.Size
		return cosigs[0].line, nil
	}
	return failed("conflict", errors.New("it names another size each time"))
}

// confront looks for proof that the log was rolled back or has two writers: a
// checkpoint that this log's key signed and that does not belong to the log. A
// witness's bare word stops nobody.
func (ws *witnesses) confront(ctx context.Context, st *witnessState, sub *submission) {
	at := sub.at
	b, err := ws.cfg.WitnessClient.Checkpoint(ctx, st.Witness, at.Origin)
	if err != nil {
		return
	}
	s, err := readSeen(b, st.Witness, at.Origin, ws.keys)
	if err != nil || !s.signed {
		return
	}
	if s.size > at.Size {
		ws.stop(&FaultError{&ContradictionError{fmt.Sprintf("the log has %d entries, and witness %s holds its signature for %d", at.Size, st.Name(), s.size)}})
		return
	}
	if root, err := rootAt(sub.tiles, at, s.size); err == nil && root != s.root {
		ws.stop(&FaultError{&ContradictionError{fmt.Sprintf("witness %s holds its signature for another history of %d entries", st.Name(), s.size)}})
	}
}

// storedHashes reads the hashes of a tree from tiles, authenticated to the
// tree's root.
func storedHashes(r tlog.TileReader, c Checkpoint) tlog.HashReader {
	return tlog.TileHashReader(tlog.Tree{N: int64(c.Size), Hash: tlog.Hash(c.Root)}, r)
}

// proveConsistency proves that a checkpoint continues the tree of its first
// entries.
func proveConsistency(r tlog.TileReader, c Checkpoint, from uint64) ([]Hash, error) {
	if from == 0 || from >= c.Size {
		return nil, nil
	}
	p, err := tlog.ProveTree(int64(c.Size), int64(from), storedHashes(r, c))
	if err != nil {
		return nil, err
	}
	proof := make([]Hash, len(p))
	for i := range p {
		proof[i] = Hash(p[i])
	}
	return proof, nil
}

// rootAt gives the root that the log had when it had size
// entries, authenticated to a later checkpoint's.
func rootAt(r tlog.TileReader, c Checkpoint, size uint64) (Hash, error) {
	switch {
	case size == 0:
		return sha256.Sum256(nil), nil
	case size == c.Size:
		return c.Root, nil
	case size > c.Size:
		return Hash{}, fmt.Errorf("%d entries are more than the %d of the checkpoint", size, c.Size)
	}
	h, err := tlog.TreeHash(int64(size), storedHashes(r, c))
	return Hash(h), err
}
