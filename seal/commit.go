package seal

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// logState is the end of a log: everything the next frame depends on.
type logState struct {
	cfg     *Config
	dir     string
	signers []note.Signer // of checkpoints: the log key; two at a handover
	tree    *tree

	entry, epoch, record uint64 // of the next entry; of this epoch; of the next record
	prev                 Hash
	sealed               uint64 // of the last entry
	keys                 ratchet
	began                time.Time // this epoch
	checkpoint           []byte    // the last one, signed

	segment File      // nil: the next group starts a new one
	first   uint64    // first entry of the segment
	started time.Time // when the segment was
	synced  int64     // bytes of it that are durable
	buf     []byte
}

// commit writes one group: a batch entry for each pending batch, or one other
// entry with its sections, then a checkpoint. It returns the bytes written.
// After an error the state is of no more use.
func (s *logState) commit(group []*pending, other *Header, now uint64, sections ...[]byte) (int64, error) {
	s.sealed = max(s.sealed, now) // never back within an epoch
	s.buf = s.buf[:0]
	first := s.entry
	for _, p := range group {
		b := p.sealed
		s.appendEntry(&Header{
			Kind: KindBatch, Records: b.records, Root: b.root,
			TimeMin: b.min, TimeMax: b.max, Sections: b.sections[:],
		}, b.filter, b.body)
	}
	if other != nil {
		s.appendEntry(other, sections...)
	}
	return int64(len(s.buf)), s.write(first)
}

// place says where in the log a header is.
func (s *logState) place(h *Header) {
	h.Origin, h.Entry, h.Epoch, h.FirstRecord, h.Prev, h.Sealed = s.cfg.Origin, s.entry, s.epoch, s.record, s.prev, s.sealed
}

func (s *logState) appendEntry(h *Header, sections ...[]byte) {
	s.place(h)
	start := len(s.buf)
	s.buf = h.appendUntagged(s.buf)
	s.buf = appendHashLine(s.buf, "tag", s.keys.tag(s.buf[start:]))
	s.buf = appendSum(s.buf, start)
	text := s.buf[start:]
	s.prev = sha256.Sum256(text)
	s.tree.push(leafHash(text))
	s.entry++
	s.record += h.Records
	s.buf = append(s.buf, '\n')
	for _, b := range sections {
		s.buf = append(s.buf, b...)
	}
}

// write ends the group in s.buf, whose first entry is first, with a
// checkpoint, and makes it durable.
func (s *logState) write(first uint64) error {
	var err error
	s.checkpoint, err = Checkpoint{s.cfg.Origin, s.tree.size, s.tree.root()}.sign(s.signers...)
	if err != nil {
		return fmt.Errorf("sign a checkpoint: %w", err)
	}
	h := Header{Kind: KindCheckpoint, Origin: s.cfg.Origin, Prev: s.prev, Sections: []Section{rawSection(SectionNote, s.checkpoint)}}
	start := len(s.buf)
	s.buf = h.appendUntagged(s.buf)
	s.buf = appendSum(s.buf, start)
	s.prev = sha256.Sum256(s.buf[start:])
	s.buf = append(s.buf, '\n')
	s.buf = append(s.buf, s.checkpoint...)

	if s.segment != nil && (s.synced >= s.cfg.SegmentMaxBytes || s.segmentIsOld()) {
		if err := s.segment.Close(); err != nil {
			return err
		}
		s.segment = nil
	}
	created := s.segment == nil
	if created {
		name := filepath.Join(s.dir, segmentDir, segmentName(first))
		s.first, s.synced, s.started = first, 0, time.Unix(0, int64(s.sealed))
		if s.segment, err = s.cfg.FS.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644); err != nil {
			s.segment = nil
			return err
		}
	}
	if _, err := s.segment.Write(s.buf); err != nil {
		return err
	}
	if err := s.segment.Sync(); err != nil {
		return err
	}
	if direct(s.cfg.FS) {
		s.abandon() // an object is one group
	} else if created {
		// Without this a power cut could take the file's name, and with it
		// everything acknowledged in it.
		if err := s.cfg.FS.SyncDir(filepath.Join(s.dir, segmentDir)); err != nil {
			return err
		}
	}
	s.synced += int64(len(s.buf))
	return nil
}

// segmentIsOld reports whether the segment was started long enough ago.
func (s *logState) segmentIsOld() bool {
	age := s.cfg.SegmentMaxAge
	return age > 0 && s.segment != nil && s.cfg.Now().Sub(s.started) >= age
}

// closed is the entry before which all segments are complete.
func (s *logState) closed() uint64 {
	if s.segment != nil {
		return s.first
	}
	return s.entry
}

// abandon closes the segment without any claim about it.
func (s *logState) abandon() {
	if s.segment != nil {
		_ = s.segment.Close() // what matters was synced, the rest is cut by recovery
		s.segment = nil
	}
}
