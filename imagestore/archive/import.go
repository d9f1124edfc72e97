package archive

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/minirun/minirun/imagestore"
	"github.com/minirun/minirun/imagestore/decompress"
)

// DefaultPath is the PATH of images that set none.
const DefaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// ImportOptions are optional.
type ImportOptions struct {
	Stdin   io.Reader              // what the source "-" reads
	Config  imagestore.ImageConfig // PATH is added to Env if it is not there
	Changes []string               // see [Change]
	Created time.Time              // zero leaves the image without a time
	Message string                 // comment in the history
	// KeepPlain keeps the decompressed archive of a compressed one in
	// Result.Plain, so that nobody has to decompress it again, if it says so. It is
	// asked when the store is there.
	KeepPlain func() bool
	Progress  Progress
}

// Import makes an image of one layer from a root file system and enters it as
// name. src is a tar archive, compressed or not, which is kept byte for byte; a
// directory, of which a deterministic archive is made; or "-" for an archive on
// standard input. The image has no command unless the options give one.
func Import(ctx context.Context, s *imagestore.Store, src, name string, o ImportOptions) (*Result, error) {
	res, err := importFrom(ctx, s, src, name, o)
	if err != nil {
		return nil, &Error{Op: "import", Source: src, Err: err}
	}
	return res, nil
}

func importFrom(ctx context.Context, s *imagestore.Store, src, name string, o ImportOptions) (*Result, error) {
	if _, err := imagestore.Normalize(name); err != nil { // before a long archive is read
		return nil, err
	}
	if err := Change(&o.Config, o.Changes...); err != nil {
		return nil, err
	}
	in, err := openSource(ctx, src, o.Stdin, o.Progress)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	if in.dir == nil {
		return importTar(ctx, s, in.r, name, o)
	}
	w := &dirWriter{ctx: ctx, progress: o.Progress}
	res, err := importFunc(ctx, s, name, o, func(tw *tar.Writer) error {
		w.tw = tw
		return w.write(src)
	})
	if err != nil {
		return nil, err
	}
	res.Warnings = append(res.Warnings, w.skipped...)
	return res, nil
}

// ImportFunc is [Import] of a tar archive that write produces.
func ImportFunc(ctx context.Context, s *imagestore.Store, name string, o ImportOptions, write func(*tar.Writer) error) (*Result, error) {
	res, err := importFunc(ctx, s, name, o, write)
	if err != nil {
		return nil, fmt.Errorf("make image %q: %w", name, err)
	}
	return res, nil
}

func importFunc(ctx context.Context, s *imagestore.Store, name string, o ImportOptions, write func(*tar.Writer) error) (*Result, error) {
	pr, pw := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		tw := tar.NewWriter(pw)
		err := write(tw)
		if err == nil {
			err = tw.Close()
		}
		pw.CloseWithError(err)
	}()
	defer func() { pr.Close(); <-done }() // a writer that still writes gets io.ErrClosedPipe
	return importTar(ctx, s, pr, name, o)
}

func importTar(ctx context.Context, s *imagestore.Store, r io.Reader, name string, o ImportOptions) (*Result, error) {
	name, err := imagestore.Normalize(name)
	if err != nil {
		return nil, err
	}
	g, err := s.BeginFor(ctx, "image import")
	if err != nil {
		return nil, err
	}
	defer g.Close()
	var plain *plainKeeper
	if o.KeepPlain != nil && o.KeepPlain() {
		plain = keepPlain(g)
		defer plain.drop()
	}
	c, err := spoolChecked(ctx, g, "", r, checkTar, plain)
	if err != nil {
		return nil, err
	}
	if c.err != nil {
		return nil, c.err
	}
	res := &Result{}
	layer := imagestore.Descriptor{MediaType: layerType(c.format), Digest: c.digest, Size: c.size}
	if err := publishLayer(ctx, g, name, layer, c.diffID, o, res); err != nil {
		return nil, err
	}
	if c.format != decompress.None {
		res.Plain = plain.take()
	}
	return res, nil
}

// publishLayer writes config and manifest of an image of one layer.
func publishLayer(ctx context.Context, g *imagestore.Ingest, name string, layer imagestore.Descriptor, diffID imagestore.Digest, o ImportOptions, res *Result) error {
	host := imagestore.HostPlatform()
	cfg := imagestore.Config{
		Architecture: host.Architecture,
		OS:           host.OS,
		Config:       o.Config,
		RootFS:       imagestore.RootFS{Type: "layers", DiffIDs: []imagestore.Digest{diffID}},
		History:      []imagestore.History{{CreatedBy: "minirun image import", Comment: o.Message}},
	}
	cfg.Config.Env = withPath(cfg.Config.Env)
	if !o.Created.IsZero() {
		cfg.Created = o.Created.UTC().Format(time.RFC3339)
		cfg.History[0].Created = cfg.Created
	}
	b, err := json.Marshal(cfg)
	if err != nil {
		return err
	}
	cd, err := g.PutBytes(ctx, imagestore.MediaTypeConfig, b)
	if err != nil {
		return err
	}
	b, err = json.Marshal(imagestore.Manifest{
		SchemaVersion: 2,
		MediaType:     imagestore.MediaTypeManifest,
		Config:        cd,
		Layers:        []imagestore.Descriptor{layer},
	})
	if err != nil {
		return err
	}
	target, err := g.PutBytes(ctx, imagestore.MediaTypeManifest, b)
	if err != nil {
		return err
	}
	res.Images = []Loaded{{Name: name, ID: cd.Digest, Target: target}}
	return publish(ctx, g, []imagestore.Naming{{Name: name, Target: target}}, res)
}

func withPath(env []string) []string {
	for _, e := range env {
		if len(e) >= 5 && e[:5] == "PATH=" {
			return env
		}
	}
	return append([]string{DefaultPath}, env...)
}

// checkTar reads a layer's headers, so that an archive which is cut off, or is
// none, is noticed before it becomes an image.
func checkTar(r io.Reader) error {
	tr := tar.NewReader(r)
	for n := 0; ; n++ {
		_, err := tr.Next()
		switch {
		case err == io.EOF && n == 0:
			return errors.New("the archive is empty")
		case err == io.EOF:
			return nil
		case err != nil:
			return tarError(err, n)
		}
	}
}
