// SPDX-License-Identifier: LGPL-2.1 OR MIT

// Go's runtime as a peer of upreempt-bench: how long it takes to stop goroutines that spin
// in loops without calls. runtime.ReadMemStats stops the world, copies some numbers and
// starts it again. Speaks the protocol of stw.c: on stdin the number of samples, 32 bits; on
// stdout first 32 bits of 0, then three floats for each sample.
package main

import (
	"encoding/binary"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"time"
)

type spinner struct {
	beat uint64
	_    [56]byte
}

var spinning, running int32

func spin(s *spinner) {
	atomic.AddInt32(&running, 1)
	for atomic.LoadInt32(&spinning) != 0 {
		atomic.StoreUint64(&s.beat, s.beat+1)
	}
	atomic.AddInt32(&running, -1)
}

// Until each has moved. With one spinner on two CPUs nobody else wants ours: no need to sleep.
func moved(spinners []spinner) {
	was := make([]uint64, len(spinners))
	for i := range spinners {
		was[i] = atomic.LoadUint64(&spinners[i].beat)
	}
	for i := range spinners {
		for atomic.LoadUint64(&spinners[i].beat) == was[i] {
			if len(spinners) > 1 {
				time.Sleep(100 * time.Microsecond)
			}
		}
	}
}

func begin(spinners []spinner) {
	atomic.StoreInt32(&spinning, 1)
	for i := range spinners {
		go spin(&spinners[i])
	}
	moved(spinners)
}

func end() {
	atomic.StoreInt32(&spinning, 0)
	for atomic.LoadInt32(&running) != 0 {
		time.Sleep(100 * time.Microsecond)
	}
	time.Sleep(500 * time.Microsecond)
}

func turn(spinners []spinner, n uint32) []float64 {
	var stats runtime.MemStats

	out := make([]float64, 0, 3*n)
	begin(spinners)
	for ; n > 0; n-- {
		t := time.Now()
		runtime.ReadMemStats(&stats)
		out = append(out, float64(time.Since(t).Nanoseconds()), -1, -1)
		moved(spinners)
		if runtime.NumCPU() > 2 { // as in stw.c
			end()
			begin(spinners)
		}
	}
	end()
	return out
}

func main() {
	var n uint32

	count, err := strconv.Atoi(os.Args[1])
	if err != nil {
		os.Exit(2)
	}
	// No collection in between, and a P for each goroutine: it is the kernel that shares
	// the CPUs among them, as for the other peers.
	debug.SetGCPercent(-1)
	runtime.GOMAXPROCS(count + 1)
	spinners := make([]spinner, count)
	binary.Write(os.Stdout, binary.LittleEndian, int32(0))
	for binary.Read(os.Stdin, binary.LittleEndian, &n) != io.EOF && n != 0 {
		binary.Write(os.Stdout, binary.LittleEndian, turn(spinners, n))
	}
}
