package cgroups

import (
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// blockIO: weights go to the BFQ scheduler where its file exists (same scale),
// else to io.weight; throttles are keys of io.max. leafWeight was CFQ's.
func (t *translation) blockIO(b *specs.LinuxBlockIO) {
	if b == nil {
		return
	}
	if b.Weight != nil {
		t.ioWeight("", *b.Weight, "blockIO.weight")
	}
	for i := range b.WeightDevice {
		d := &b.WeightDevice[i]
		if d.Weight != nil {
			field := "blockIO.weightDevice[" + strconv.Itoa(i) + "]"
			t.ioWeight(t.device(&d.LinuxBlockIODevice, field), *d.Weight, field)
		}
	}
	t.throttle("rbps", b.ThrottleReadBpsDevice, "blockIO.throttleReadBpsDevice")
	t.throttle("wbps", b.ThrottleWriteBpsDevice, "blockIO.throttleWriteBpsDevice")
	t.throttle("riops", b.ThrottleReadIOPSDevice, "blockIO.throttleReadIOPSDevice")
	t.throttle("wiops", b.ThrottleWriteIOPSDevice, "blockIO.throttleWriteIOPSDevice")
}

// ioWeight: 10..1000 in OCI, 1..1000 in io.bfq.weight, 1..10000 in io.weight.
func (t *translation) ioWeight(device string, w uint16, field string) {
	if w == 0 {
		return
	}
	if w < 10 || w > 1000 {
		t.fail(field, utoa(uint64(w)), "is not between 10 and 1000", "use a weight from 10 to 1000")
		return
	}
	t.add(Setting{
		File: "io.bfq.weight", Value: device + utoa(uint64(w)), Field: root + field,
		Else: &Setting{File: "io.weight", Value: device + utoa(1+(uint64(w)-10)*9999/990), Field: root + field},
	})
}

func (t *translation) throttle(key string, devices []specs.LinuxThrottleDevice, field string) {
	for i := range devices {
		d := &devices[i]
		field := field + "[" + strconv.Itoa(i) + "]"
		s := Setting{File: "io.max", Value: t.device(&d.LinuxBlockIODevice, field) + key + "=", Field: root + field}
		if d.Rate == 0 { // lifted a limit on v1; the kernel refuses it on v2
			s.Value += "max"
			s.Optional = true
		} else {
			s.Value += utoa(d.Rate)
		}
		t.add(s)
	}
}

// device returns "MAJOR:MINOR ".
func (t *translation) device(d *specs.LinuxBlockIODevice, field string) string {
	if d.Major < 0 || d.Minor < 0 {
		t.fail(field, itoa(d.Major)+":"+itoa(d.Minor), "is no device number", "use the numbers that stat -c %Hr:%Lr prints")
	}
	return itoa(d.Major) + ":" + itoa(d.Minor) + " "
}
