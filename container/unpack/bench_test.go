package unpack_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/minirun/minirun/imagestore/decompress"
	"github.com/minirun/minirun/overlay"
	"github.com/minirun/minirun/overlay/apply"
	"golang.org/x/sys/unix"
)

var ways = []apply.Kind{apply.Index, apply.Extract}

func wayName(k apply.Kind) string {
	return map[apply.Kind]string{apply.Index: "index", apply.Extract: "extract"}[k]
}

func layerStore(b *testing.B) *overlay.Store {
	b.Helper()
	s, err := overlay.OpenStore(filepath.Join(b.TempDir(), "overlay"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(s.Close)
	return s
}

func diffID(raw []byte) string {
	sum := sha256.Sum256(raw)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func addLayer(b *testing.B, s *overlay.Store, parent overlay.ChainID, diffID string, r io.Reader, o apply.Options) overlay.ChainID {
	b.Helper()
	c, _, err := apply.Layer(b.Context(), s, parent, diffID, r, o)
	if err != nil {
		b.Fatal(err)
	}
	return c
}

func cpu() time.Duration {
	var r unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// sources is an archive of Go's own sources: some ten thousand files.
func sources(b *testing.B) (raw, packed []byte) {
	b.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := w.AddFS(os.DirFS(filepath.Join(runtime.GOROOT(), "src"))); err != nil {
		b.Fatal(err)
	}
	w.Close()
	var z bytes.Buffer
	zw := gzip.NewWriter(&z)
	_, _ = zw.Write(buf.Bytes())
	zw.Close()
	return buf.Bytes(), z.Bytes()
}

// BenchmarkUnpack compares the CPU time of unpacking a compressed layer with that
// of decompressing and hashing it, which is the least that can be done.
func BenchmarkUnpack(b *testing.B) {
	raw, packed := sources(b)
	id := diffID(raw)
	plain := func() io.Reader {
		z, err := decompress.NewReader(bytes.NewReader(packed))
		if err != nil {
			b.Fatal(err)
		}
		return z
	}
	measure := func(name string, f func(b *testing.B)) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(raw)))
			var used time.Duration
			for b.Loop() {
				before := cpu()
				f(b)
				used += cpu() - before
			}
			b.ReportMetric(float64(used.Milliseconds())/float64(b.N), "cpu-ms/op")
		})
	}
	measure("floor", func(b *testing.B) {
		if _, err := io.CopyBuffer(sha256.New(), struct{ io.Reader }{plain()}, make([]byte, 128<<10)); err != nil {
			b.Fatal(err)
		}
	})
	for _, kind := range ways {
		measure(wayName(kind), func(b *testing.B) {
			addLayer(b, layerStore(b), "", id, plain(), apply.Options{Kind: kind})
		})
	}
}

// BenchmarkMount is what a container start does with an image: a snapshot and its
// mount. Each layer has a few small files.
func BenchmarkMount(b *testing.B) {
	for _, kind := range ways {
		for _, layers := range []int{1, 10, 128, 500} {
			b.Run(fmt.Sprintf("%s/%d", wayName(kind), layers), func(b *testing.B) {
				s := layerStore(b)
				var c overlay.ChainID
				o := apply.Options{Kind: kind, Base: &apply.Base{}, Inner: true}
				for i := range layers {
					var buf bytes.Buffer
					w := tar.NewWriter(&buf)
					for j := range 5 {
						name := fmt.Sprintf("dir%d/file%d", j, i)
						_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(name))})
						_, _ = io.WriteString(w, name)
					}
					w.Close()
					o.Inner = i < layers-1
					c = addLayer(b, s, c, diffID(buf.Bytes()), &buf, o)
				}
				var times []time.Duration
				for b.Loop() {
					start := time.Now()
					sn, err := s.Prepare("k", c)
					if err != nil {
						b.Fatal(err)
					}
					fd, err := sn.Mount()
					if err != nil {
						b.Fatal(err)
					}
					times = append(times, time.Since(start))
					b.StopTimer()
					unix.Close(fd)
					if err := s.RemoveSnapshot("k"); err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
				}
				slices.Sort(times) // others use the disk too
				b.ReportMetric(float64(times[len(times)/2].Microseconds())/1000, "median-ms")
				b.ReportMetric(float64(times[0].Microseconds())/1000, "min-ms")
			})
		}
	}
}

// BenchmarkRemove removes a layer of 60,000 files.
func BenchmarkRemove(b *testing.B) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i := range 60_000 {
		_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("%d/%d", i/100, i), Mode: 0o644, Size: 100})
		_, _ = w.Write(make([]byte, 100))
	}
	w.Close()
	for _, kind := range ways {
		b.Run(wayName(kind), func(b *testing.B) {
			var used time.Duration
			for b.Loop() {
				b.StopTimer()
				s := layerStore(b)
				c := addLayer(b, s, "", diffID(buf.Bytes()), bytes.NewReader(buf.Bytes()), apply.Options{Kind: kind})
				before := cpu()
				b.StartTimer()
				if err := s.RemoveLayer(c); err != nil {
					b.Fatal(err)
				}
				used += cpu() - before
			}
			b.ReportMetric(float64(used.Microseconds())/1000/float64(b.N), "cpu-ms/op")
		})
	}
}
