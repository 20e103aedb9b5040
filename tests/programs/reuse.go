// Fills memory, gives it back, and takes memory again; see reuse.c. Usage: reuse PREFIX
package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"time"
)

type node struct {
	next *node
	data [500]byte
	zero [20]int
}

func wait(step string) {
	for {
		if _, err := os.Stat(os.Args[1] + "." + step); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func fill(megabytes int) (blocks [][]byte, list *node) {
	for i := 0; i < megabytes*4; i++ {
		block := make([]byte, 1000*(i%200+1))
		for at := range block {
			block[at] = byte(i + at)
		}
		blocks = append(blocks, block)
	}
	for i := 0; i < megabytes*100; i++ {
		list = &node{next: list}
		list.data[i%500] = byte(i)
	}
	return
}

func digest(blocks [][]byte, list *node) string {
	hash := sha256.New()
	for _, block := range blocks {
		hash.Write(block)
	}
	for ; list != nil; list = list.next {
		hash.Write(list.data[:])
	}
	return fmt.Sprintf("%x", hash.Sum(nil))
}

func checkZeros(done chan bool) {
	good := true
	var list *node
	for i := 0; i < 6; i++ {
		for size := 1; size < 8<<20; size = size*5/4 + 1 {
			block := make([]byte, size)
			for _, each := range block {
				good = good && each == 0
			}
			for at := range block {
				block[at] = 255
			}
			words := make([]*node, size/8)
			for _, each := range words {
				good = good && each == nil
			}
		}
		for j := 0; j < 5000; j++ {
			fresh := new(node)
			for _, each := range fresh.data {
				good = good && each == 0
			}
			for at := range fresh.data {
				fresh.data[at] = 255
			}
			if j%2 == 0 {
				fresh.next = list
				list = fresh
			}
		}
		if i%5 == 4 {
			list = nil
		}
	}
	done <- good
}

func deep(depth int) int {
	var on [1000]int
	on[depth%1000] = depth
	if depth == 0 {
		return 0
	}
	return deep(depth-1) + on[depth%1000] - depth
}

func main() {
	kept, keptList := fill(60)
	dropped, droppedList := fill(200)
	known := digest(kept, keptList)
	fmt.Println("ready")
	wait("touch")
	if digest(kept, keptList) != known {
		fmt.Println("WRONG what was kept, at first")
	}
	digest(dropped, droppedList)
	for _, block := range dropped {
		block[len(block)/2]++
	}
	fmt.Println("touched")
	wait("free")
	dropped, droppedList = nil, nil
	debug.FreeOSMemory()
	debug.FreeOSMemory()
	fmt.Println("freed")
	wait("reuse")
	done := make(chan bool)
	good := true
	for round := 0; round < 2; round++ {
		for i := 0; i < 4; i++ {
			go checkZeros(done)
		}
		for i := 0; i < 4; i++ {
			good = <-done && good
		}
		go func() { done <- deep(5000) == 0 }()
		good = <-done && good
		runtime.GC()
		debug.FreeOSMemory()
	}
	switch {
	case !good:
		fmt.Println("WRONG no zeros")
	case digest(kept, keptList) != known:
		fmt.Println("WRONG what was kept")
	default:
		fmt.Println("fine")
	}
	for {
		time.Sleep(time.Second)
	}
}
