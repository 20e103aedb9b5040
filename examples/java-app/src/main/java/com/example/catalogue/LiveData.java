package com.example.catalogue;

import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.List;
import java.util.zip.CRC32C;
import org.springframework.stereotype.Component;

/**
 * Live data that stands for the heap of a bigger service: blocks of 8 KiB, each with a checksum of its own, all
 * reachable for as long as the process lives. What a block holds follows from its number, so that the whole can be
 * checked at any time against what it must be.
 */
@Component
public class LiveData {

    static final int BLOCK_BYTES = 8192;

    /** Four of eight bits vary: the blocks compress about as well as the objects of a usual heap. */
    private static final long VARYING_BITS = 0x0f0f0f0f0f0f0f0fL;

    /**
     * The outcome of a check.
     *
     * @param blocks how many blocks were checked
     * @param corrupt how many did not hold what they must
     * @param checksum CRC-32C over all blocks, in order
     */
    public record Verification(int blocks, int corrupt, String checksum) {}

    private record Block(byte[] content, int checksum) {}

    private final List<Block> blocks;

    public LiveData(LiveDataProperties properties) {
        int count = Math.toIntExact((long) properties.sizeMb() * 1024 * 1024 / BLOCK_BYTES);
        blocks = new ArrayList<>(count);
        for (int number = 0; number < count; number++) {
            byte[] content = content(number);
            blocks.add(new Block(content, checksum(content)));
        }
    }

    /** Read every block and compare it with its checksum. */
    public Verification verify() {
        CRC32C whole = new CRC32C();
        int corrupt = 0;
        for (Block block : blocks) {
            whole.update(block.content());
            if (checksum(block.content()) != block.checksum()) {
                corrupt++;
            }
        }
        return new Verification(blocks.size(), corrupt, String.format("%08x", whole.getValue()));
    }

    /** Allocate and drop so many mebibytes, a block at a time, checking each: memory given back is used again. */
    public Verification churn(int sizeMb) {
        CRC32C whole = new CRC32C();
        int count = Math.toIntExact((long) sizeMb * 1024 * 1024 / BLOCK_BYTES);
        int corrupt = 0;
        for (int number = 0; number < count; number++) {
            byte[] fresh = new byte[BLOCK_BYTES];
            for (byte each : fresh) {
                if (each != 0) {
                    corrupt++;
                    break;
                }
            }
            fill(fresh, number);
            whole.update(fresh);
        }
        return new Verification(count, corrupt, String.format("%08x", whole.getValue()));
    }

    private static byte[] content(int number) {
        byte[] content = new byte[BLOCK_BYTES];
        fill(content, number);
        return content;
    }

    /** SplitMix64, seeded with the number of the block. */
    private static void fill(byte[] content, int number) {
        ByteBuffer buffer = ByteBuffer.wrap(content);
        long state = number;
        while (buffer.hasRemaining()) {
            state += 0x9e3779b97f4a7c15L;
            long mixed = (state ^ (state >>> 30)) * 0xbf58476d1ce4e5b9L;
            mixed = (mixed ^ (mixed >>> 27)) * 0x94d049bb133111ebL;
            buffer.putLong((mixed ^ (mixed >>> 31)) & VARYING_BITS);
        }
    }

    private static int checksum(byte[] content) {
        CRC32C crc = new CRC32C();
        crc.update(content);
        return (int) crc.getValue();
    }
}
