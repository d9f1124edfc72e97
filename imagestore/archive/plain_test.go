package archive_test

import (
	"bytes"
	"io"
	"testing"

	"github.com/minirun/minirun/imagestore/archive"
	"github.com/minirun/minirun/imagestore/decompress"
	"github.com/minirun/minirun/imagestore/imagetest"
)

// A compressed archive is decompressed once, for who wants it.
func TestImport_KeepPlain(t *testing.T) {
	plain := imagetest.Files(t, "a", random("a", 700<<10), "b", "b")
	for _, f := range formats {
		for _, keep := range []bool{true, false} {
			s := newStore(t)
			res, err := importBytes(s, imagetest.Compress(t, f, plain), archive.ImportOptions{KeepPlain: func() bool { return keep }})
			if err != nil {
				t.Fatal(err)
			}
			if want := keep && f != decompress.None; (res.Plain != nil) != want {
				t.Fatalf("%v, keep %v: kept %v", f, keep, res.Plain != nil)
			}
			if res.Plain == nil {
				continue
			}
			if _, err := res.Plain.Seek(0, io.SeekStart); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(res.Plain)
			if err != nil || !bytes.Equal(got, plain) {
				t.Errorf("%v: %d bytes, %v, want %d", f, len(got), err, len(plain))
			}
			res.Plain.Close()
		}
	}
}
