package unpacked

import (
	goruntime "runtime"

	"github.com/minirun/minirun/imagestore/reference"
	"github.com/minirun/minirun/internal/jsonread"
)

// version of the records that this code writes, and the only one it reads.
const version = 1

// host is what a record is good for: an index may hold another image for another one.
const host = "linux/" + goruntime.GOARCH

// Image is one unpacked image.
type Image struct {
	Name     string // in index.json; empty for one without a name
	Target   reference.Digest
	Manifest reference.Digest
	ID       reference.Digest // of the config
	Chain    string           // chain ID of all layers; empty for an image without any
	Config   Config
}

// Config is an image's configuration (image-spec, config.md), as far as it says
// something to a container.
type Config struct {
	Created, Author, Architecture, OS, OSVersion, Variant string
	OSFeatures                                            []string
	Config                                                ImageConfig
}

// ImageConfig holds the execution parameters of an image. It is untrusted data:
// nothing in it may become a host path, an environment look-up or an option of
// the runtime.
type ImageConfig struct {
	User, WorkingDir, StopSignal  string
	Env, Entrypoint, Cmd          []string
	ExposedPorts, Volumes, Labels map[string]string // the first two have only keys
}

// parse reads a record. ok is false for anything that Write does not write.
func parse(b []byte) (img *Image, ok bool) {
	img = &Image{}
	r := jsonread.New(b)
	var v int
	var forHost, target, manifest, id string
	for key, more := r.Object(); more; key, more = r.NextKey() {
		switch key {
		case "version":
			r.Int(&v)
		case "host":
			r.String(&forHost)
		case "target":
			r.String(&target)
		case "manifest":
			r.String(&manifest)
		case "id":
			r.String(&id)
		case "chain":
			r.String(&img.Chain)
		case "config":
			img.Config.read(&r)
		default:
			r.Skip()
		}
	}
	img.Target, img.Manifest, img.ID = reference.Digest(target), reference.Digest(manifest), reference.Digest(id)
	return img, r.End() == nil && v == version && forHost == host && reference.ValidDigest(manifest) && reference.ValidDigest(id) &&
		(img.Chain == "" || reference.ValidDigest(img.Chain))
}

func (c *Config) read(r *jsonread.Reader) {
	for key, more := r.Object(); more; key, more = r.NextKey() {
		switch key {
		case "created":
			r.String(&c.Created)
		case "author":
			r.String(&c.Author)
		case "architecture":
			r.String(&c.Architecture)
		case "os":
			r.String(&c.OS)
		case "os.version":
			r.String(&c.OSVersion)
		case "os.features":
			stringList(r, &c.OSFeatures)
		case "variant":
			r.String(&c.Variant)
		case "config":
			c.Config.read(r)
		default:
			r.Skip()
		}
	}
}

func (c *ImageConfig) read(r *jsonread.Reader) {
	for key, more := r.Object(); more; key, more = r.NextKey() {
		switch key {
		case "User":
			r.String(&c.User)
		case "WorkingDir":
			r.String(&c.WorkingDir)
		case "StopSignal":
			r.String(&c.StopSignal)
		case "Env":
			stringList(r, &c.Env)
		case "Entrypoint":
			stringList(r, &c.Entrypoint)
		case "Cmd":
			stringList(r, &c.Cmd)
		case "ExposedPorts":
			stringMap(r, &c.ExposedPorts, false)
		case "Volumes":
			stringMap(r, &c.Volumes, false)
		case "Labels":
			stringMap(r, &c.Labels, true)
		default:
			r.Skip()
		}
	}
}

func stringList(r *jsonread.Reader, p *[]string) {
	if r.Null() {
		return
	}
	for more := r.Array(); more; more = r.NextElem() {
		var s string
		r.String(&s)
		*p = append(*p, s)
	}
}

// stringMap reads an object; values says whether its values are strings, or
// nothing that is of interest.
func stringMap(r *jsonread.Reader, p *map[string]string, values bool) {
	if r.Null() {
		return
	}
	*p = map[string]string{}
	for key, more := r.Object(); more; key, more = r.NextKey() {
		var s string
		if values {
			r.String(&s)
		} else {
			r.Skip()
		}
		(*p)[key] = s
	}
}
