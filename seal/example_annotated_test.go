package seal

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The byte-annotated example in docs/sealed-log.md is what stands in the vector
// good-example, as this package reads it.
func TestAnnotatedExample(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(vectorsDir, "good-example", "store", filepath.Base(LogDir("", testOrigin)), segmentDir, segmentName(0)))
	if err != nil {
		t.Fatal(err)
	}
	fr := newFrameReader(bytes.NewReader(data), 0)
	var frames []*frame
	for fr.offset < int64(len(data)) {
		f, err := fr.next()
		if err != nil {
			t.Fatal(err)
		}
		frames = append(frames, f)
	}
	want := annotate(t, data, frames[2], frames[3])
	doc, err := os.ReadFile("../docs/sealed-log.md")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(doc, []byte(want)) {
		t.Errorf("docs/sealed-log.md must hold this example:\n%s", want)
	}
}

// annotation is what the lines and sections of the example mean.
var annotation = map[string]string{
	"prev": "SHA-256 of the header in front, a checkpoint's", "entry": "after the open, entry 0", "records": "the first one, one of them",
	"root": "of one leaf: the leaf itself, below", "time": "of the one record", "tag": "HMAC over all bytes above this line",
	"sum": "first 4 bytes of SHA-256 over all bytes above",
}

func annotate(t *testing.T, data []byte, batch, checkpoint *frame) string {
	t.Helper()
	var out strings.Builder
	at := int(batch.offset)
	line := func(n int, what, why string) {
		fmt.Fprintf(&out, "%5d", at)
		if what != "" {
			fmt.Fprintf(&out, "  %s", what)
		}
		if why != "" {
			fmt.Fprintf(&out, "   ← %s", why)
		}
		out.WriteByte('\n')
		at += n
	}
	hex := func(n int, why string) {
		shown := fmt.Sprintf("% x", data[at:at+min(n, 12)])
		if n > 12 {
			shown += fmt.Sprintf(" … (%d bytes)", n)
		}
		line(n, shown, why)
	}
	header := func(f *frame) {
		at = int(f.offset)
		for l := range strings.Lines(string(f.text)) {
			l = strings.TrimSuffix(l, "\n")
			key, _, _ := strings.Cut(l, " ")
			line(len(l)+1, l, annotation[key])
		}
		line(1, "", "an empty line ends the header")
	}

	header(batch)
	hex(nonceBytes, "filter: nonce")
	hex(len(batch.sections[0])-nonceBytes, `filter: 7 bits of "user_id=ann" among 64`)
	hex(4, "body: zstd magic")
	hex(1, "one segment, a content size of 4 bytes, no checksum, no dictionary")
	hex(4, fmt.Sprintf("content size: %d, as the section line says", batch.Sections[1].Plain))
	hex(3, "header of the last block: raw")
	hex(seedBytes, "the seed of the salts")
	for _, part := range []struct {
		n   int
		why string
	}{
		{2, "field 1 of the request: ResourceLogs"}, {2, "field 2 of it: ScopeLogs"}, {2, "field 2 of it: LogRecord; what follows are the record bytes"},
		{9, "field 1: time"}, {2, "field 6: an attribute"}, {2 + len("user.id"), "its key, user.id"}, {4 + len("ann"), "its value, a string: ann"},
	} {
		hex(part.n, part.why)
	}
	if at != int(checkpoint.offset) {
		t.Fatalf("the batch ends at %d, not %d", checkpoint.offset, at)
	}

	d := batchDecoders.Get().(*batchDecoder)
	defer batchDecoders.Put(d)
	if err := d.verify(batch.Header, batch.sections[0], batch.sections[1]); err != nil {
		t.Fatal(err)
	}
	seed, msg, err := d.open(&batch.Sections[1], batch.sections[1])
	if err != nil {
		t.Fatal(err)
	}
	salts := newSaltStream(seed, nil)
	err = scanScopes(msg, func(r *reported, scope []byte) error {
		context := r.context()
		return scanRecords(scope, func(rec []byte) error {
			salt := salts.next()
			leaf := d.hasher.leafHash(salt, context, rec)
			if leaf != batch.Root {
				t.Fatal("the record's leaf is not the root")
			}
			out.WriteByte('\n')
			fmt.Fprintf(&out, "salt 0     %x\n", salt)
			fmt.Fprintf(&out, "context    %x   ← of four empty strings\n", context)
			fmt.Fprintf(&out, "leaf       SHA-256(00 || salt || context || record) = %x\n", leaf)
			fmt.Fprintf(&out, "           in base64 %s, the root\n", base64.StdEncoding.EncodeToString(leaf[:]))
			entry := leafHash(batch.text)
			fmt.Fprintf(&out, "this entry SHA-256(00 || header) = %x, leaf 1 of the log\n\n", entry)
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}

	header(checkpoint)
	for l := range strings.Lines(string(checkpoint.sections[0])) {
		why := map[int]string{0: "the note: origin,", 1: "size: two entries,", 2: "root over both; the signature covers these three lines"}
		n := strings.Count(string(data[checkpoint.offset+int64(len(checkpoint.text))+1:at]), "\n")
		line(len(l), strings.TrimSuffix(l, "\n"), why[n])
	}
	return out.String()
}
