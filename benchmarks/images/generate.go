package main

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/klauspost/compress/gzip"
)

// descriptor, manifest and config are as much of the OCI image format as the image needs.
type descriptor struct {
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"`
	Size      int64  `json:"size"`
}

type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
}

const (
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	configType   = "application/vnd.oci.image.config.v1+json"
	layerType    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

// scale is the size of the generated image.
type scale struct {
	files []int                // of each layer
	size  func(*rand.Rand) int // bytes of a file
	owner func(*rand.Rand) (uid, gid int)
}

// images are what can be measured.
var images = map[string]scale{
	// 7 layers with 51,000 regular files, 1.4 GB: what installedSizes was taken from.
	"installed": {[]int{7000, 17000, 9500, 8500, 6000, 5000, 1200}, installedSize, root},
	// The same with small files only, 378 MB, and other owners than root.
	"small": {[]int{7000, 16000, 9000, 8000, 6000, 5000, 1000}, smallSize(6400), func(r *rand.Rand) (int, int) { return r.IntN(3), r.IntN(3) }},
}

func root(*rand.Rand) (uid, gid int) { return 0, 0 }

// installedSizes are quantiles of the sizes of 50,223 regular files, 1.38 GB: a Debian 12
// system (debootstrap's minbase) with build-essential, git, cmake, Boost's headers,
// Python with NumPy, Vim, LLVM and Clang, and the Go tree. All belong to root.
var installedSizes = []struct {
	below float64 // part of the files
	size  float64 // bytes
}{
	{0, 0},
	{.01, 39},
	{.02, 64},
	{.05, 188},
	{.1, 305},
	{.2, 561},
	{.3, 879},
	{.4, 1314},
	{.5, 2034},
	{.6, 3099},
	{.7, 5120},
	{.8, 9486},
	{.85, 13840},
	{.9, 21836},
	{.94, 37341},
	{.96, 57326},
	{.98, 112968},
	{.985, 151344},
	{.99, 229040},
	{.992, 285304},
	{.994, 383410},
	{.996, 619043},
	{.997, 769408},
	{.998, 1554929},
	{.9985, 2141696},
	{.999, 2750712},
	{.9994, 4528886},
	{.9996, 6834488},
	{.9998, 15434687},
	{.9999, 31262256},
	{1, 33342568},
}

// installedSize draws a size from installedSizes.
func installedSize(r *rand.Rand) int {
	u := r.Float64()
	i := 1
	for installedSizes[i].below < u {
		i++
	}
	lo, hi := installedSizes[i-1], installedSizes[i]
	// Sizes spread over magnitudes: between two quantiles their logarithms are even.
	return int(math.Exp(math.Log(lo.size+1)+(math.Log(hi.size+1)-math.Log(lo.size+1))*(u-lo.below)/(hi.below-lo.below))) - 1
}

// smallSize draws sizes of small files.
func smallSize(average int) func(*rand.Rand) int {
	return func(r *rand.Rand) int {
		size := r.IntN(average)
		switch r.IntN(100) {
		case 0: // few files have most of the bytes
			size = average * (10 + r.IntN(60))
		case 1, 2, 3:
			size = average * (1 + r.IntN(10))
		}
		return size
	}
}

// generated is what was made of a scale.
type generated struct {
	Manifest, Config descriptor
	Layers           []descriptor
	Files, Regular   int   // entries of all layers, and how many of them are regular files
	Plain, Packed    int64 // bytes of the archives, and of them compressed
}

// generate writes an image as blobs to dir, always the same for a scale. Upper layers replace
// files of the layers below, link to their own, and remove some.
func generate(dir string, s scale) (*generated, error) {
	r := rand.New(rand.NewPCG(1, 7))
	words := make([][]byte, 4096)
	for i := range words {
		w := make([]byte, 3+r.IntN(9))
		for j := range w {
			w[j] = byte('a' + r.IntN(26))
		}
		words[i] = append(w, " \n\t(.;,)"[r.IntN(8)])
	}
	g := &generated{}
	var diffIDs []string
	for l, n := range s.files {
		d, diffID, plain, err := writeLayer(dir, func(w *tar.Writer) (int, error) { return layerFiles(w, r, words, l, n, s, &g.Regular) }, &g.Files)
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", l+1, err)
		}
		g.Layers = append(g.Layers, d)
		g.Plain += plain
		g.Packed += d.Size
		diffIDs = append(diffIDs, diffID)
	}
	var err error
	g.Config, err = writeJSON(dir, configType, map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "config": map[string]any{"Cmd": []string{"/bin/true"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs},
	})
	if err == nil {
		g.Manifest, err = writeJSON(dir, manifestType, manifest{2, manifestType, g.Config, g.Layers})
	}
	return g, err
}

// layerFiles writes the entries of layer l and returns their number; those that are regular files
// with a content of their own it adds to regular.
func layerFiles(w *tar.Writer, r *rand.Rand, words [][]byte, l, n int, s scale, regular *int) (int, error) {
	at := time.Unix(1700000000, 0)
	entries := 0
	put := func(h tar.Header, body []byte) error {
		entries++
		h.ModTime, h.Size = at.Add(time.Duration(r.IntN(1e6))*time.Second), int64(len(body))
		if err := w.WriteHeader(&h); err != nil {
			return err
		}
		_, err := w.Write(body)
		return err
	}
	file := func(name string) error {
		size := s.size(r)
		var body []byte
		if r.IntN(20) == 0 { // compressed already
			body = make([]byte, size)
			for i := 0; i+8 <= size; i += 8 {
				v := r.Uint64()
				for j := range 8 {
					body[i+j] = byte(v >> (8 * j))
				}
			}
		} else {
			for len(body) < size { // phrases return, as in source text
				at := r.IntN(1 + r.IntN(len(words)-8))
				for range 1 + r.IntN(8) {
					body = append(body, words[at]...)
					at++
				}
			}
		}
		mode := int64(0o644 + 0o111*(r.IntN(8)/7))
		uid, gid := s.owner(r)
		*regular++
		return put(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Uid: uid, Gid: gid}, body)
	}
	dir := func(name string) error {
		return put(tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755}, nil)
	}
	top := fmt.Sprintf("usr/lib/part-%d", l)
	for _, d := range []string{"usr", "usr/lib", top} {
		if err := dir(d); err != nil {
			return entries, err
		}
	}
	sub := ""
	for i := range n {
		if i%400 == 0 {
			sub = fmt.Sprintf("%s/group%d", top, i/400)
			if err := dir(sub); err != nil {
				return entries, err
			}
		}
		in := fmt.Sprintf("%s/package-%d", sub, i%400/20)
		if i%20 == 0 {
			if err := dir(in); err != nil {
				return entries, err
			}
		}
		name := fmt.Sprintf("%s/some-file-%d.ext", in, i)
		var err error
		switch {
		case i%20 == 17:
			err = put(tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: fmt.Sprintf("some-file-%d.ext", i-1), Mode: 0o777}, nil)
		case i%100 == 59:
			err = put(tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: fmt.Sprintf("%s/some-file-%d.ext", in, i-3)}, nil)
		default:
			err = file(name)
		}
		if err != nil {
			return entries, err
		}
	}
	if l == 0 {
		return entries, nil
	}
	// Changes of what is below.
	for i := range 50 {
		below := fmt.Sprintf("usr/lib/part-%d/group0/package-%d", r.IntN(l), i%20)
		var err error
		if i%5 == 0 {
			err = put(tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("%s/.wh.some-file-%d.ext", below, i%20*20+i/20), Mode: 0o644}, nil)
		} else {
			err = file(fmt.Sprintf("%s/changed-%d-%d", below, l, i))
		}
		if err != nil {
			return entries, err
		}
	}
	return entries, nil
}

// writeLayer packs what fill writes and gives the blob its name.
func writeLayer(dir string, fill func(*tar.Writer) (int, error), files *int) (d descriptor, diffID string, plain int64, err error) {
	f, err := os.CreateTemp(dir, "layer")
	if err != nil {
		return d, "", 0, err
	}
	defer f.Close()
	packed, raw := &sum{h: sha256.New(), w: f}, &sum{h: sha256.New()}
	z := gzip.NewWriter(packed) // level 6 or the like, as docker and buildah
	raw.w = z
	w := tar.NewWriter(raw)
	n, err := fill(w)
	*files += n
	for _, c := range []io.Closer{w, z} {
		if err == nil {
			err = c.Close()
		}
	}
	d = descriptor{MediaType: layerType, Digest: packed.digest(), Size: packed.n}
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, d.Digest))
	}
	return d, raw.digest(), raw.n, err
}

// sum hashes and counts what passes.
type sum struct {
	h hash.Hash
	w io.Writer
	n int64
}

func (s *sum) Write(p []byte) (int, error) {
	s.h.Write(p)
	s.n += int64(len(p))
	return s.w.Write(p)
}

func (s *sum) digest() string { return fmt.Sprintf("sha256:%x", s.h.Sum(nil)) }

func writeJSON(dir, mediaType string, v any) (descriptor, error) {
	b, err := json.Marshal(v)
	d := descriptor{MediaType: mediaType, Digest: fmt.Sprintf("sha256:%x", sha256.Sum256(b)), Size: int64(len(b))}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, d.Digest), b, 0o644)
	}
	return d, err
}
